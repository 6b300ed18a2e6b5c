"""What kind of layer a module is, and where its features are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_WEIGHTED = nn.modules.conv._ConvNd | nn.Linear


def plain_layer(module: nn.Module) -> nn.Module:
    """Return the layer inside a layer of peft, which has the same features; other modules as they are."""
    inner: Any = getattr(module, "get_base_layer", None)
    layer = inner() if callable(inner) else None
    return layer if isinstance(layer, _WEIGHTED) else module


def is_adapted(module: nn.Module) -> bool:
    """Whether the module is a layer of peft, which adds a low-rank update to the output of the layer inside."""
    return plain_layer(module) is not module


def is_convolution(module: nn.Module) -> bool:
    """Whether the module is a convolution, transposed ones included."""
    return isinstance(plain_layer(module), nn.modules.conv._ConvNd)


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer."""
    return isinstance(plain_layer(module), nn.Linear)


def is_weighted(module: nn.Module) -> bool:
    """Whether the module is a convolution or a linear layer."""
    return isinstance(plain_layer(module), _WEIGHTED)


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
    module = plain_layer(module)
    maps = nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm
    if isinstance(module, maps) or (is_norm(module) and type(module).__name__.endswith("2d")):
        return 1
    over_features = isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1
    return -1 if over_features or isinstance(module, nn.Linear) else None


def feature_count(module: nn.Module) -> int | None:
    """Return the number of features that a layer with weights returns; None for other modules."""
    module = plain_layer(module)
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    weight = getattr(module, "weight", None)  # of more dimensions where whole maps are normalised: no feature has one
    return weight.numel() if is_norm(module) and isinstance(weight, Tensor) and weight.ndim == 1 else None
