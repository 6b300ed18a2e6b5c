"""Networks by name: reference CNNs, torchvision's, timm's, and those of a user's own function."""
