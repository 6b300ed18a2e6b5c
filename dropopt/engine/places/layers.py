"""What kind of layer a module is, and where its features are."""

from __future__ import annotations

from torch import Tensor, nn


def is_convolution(module: nn.Module) -> bool:
    """Whether the module is a convolution, transposed ones included."""
    return isinstance(module, nn.modules.conv._ConvNd)


def is_weighted(module: nn.Module) -> bool:
    """Whether the module is a convolution or a linear layer."""
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def holds_weights(module: nn.Module) -> bool:
    """Whether the module is a container with a convolution or a linear layer inside."""
    return not is_weighted(module) and any(is_weighted(part) for part in module.modules())


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalisation layer, of torch or by its class name."""
    known = nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm  # timm's also contain an activation
    named = "Norm" in type(module).__name__ and not is_weighted(module)  # a convolution may normalise its weights
    return isinstance(module, known) or (named and not any(True for _ in module.children()))


def feature_axis(module: nn.Module) -> int | None:
    """Return the feature dimension of what a layer reads and returns, 1 or -1; None if its kind does not decide."""
    maps = nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm
    if isinstance(module, maps) or (is_norm(module) and type(module).__name__.endswith("2d")):
        return 1
    over_features = isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1
    return -1 if over_features or isinstance(module, nn.Linear) else None


def feature_count(module: nn.Module) -> int | None:
    """Return the number of features that a layer with weights returns; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    weight = getattr(module, "weight", None)  # of more dimensions where whole maps are normalised: no feature has one
    return weight.numel() if is_norm(module) and isinstance(weight, Tensor) and weight.ndim == 1 else None
