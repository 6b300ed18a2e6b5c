"""Networks by name: the reference CNNs, torchvision's, timm's and a person's own."""
