"""torchvision's classifiers, fitted to other numbers of channels and classes than ImageNet's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dropopt.config import ConfigError
from dropopt.training.networks.messages import close_matches, first_line

#: Networks that return auxiliary logits in training mode by default.
_AUXILIARY = ("googlenet", "inception_v3")
_AUXILIARY_HEADS = {"aux1", "aux2", "AuxLogits"}


def torchvision_model(name: str, options: Mapping[str, Any], *, channels: int, classes: int) -> nn.Module:
    """Build a torchvision classifier, without weights unless ``options`` name them.

    Raises:
        ConfigError: For an unknown name, unknown weights, a wrong option, or a failed download.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no such classifier{close_matches(name, known)}")
    options = {"weights": None, **options}
    pretrained = options["weights"] is not None
    if "pretrained" in options:
        raise ConfigError("pretrained is an option of timm; for torchvision use weights: DEFAULT")
    if pretrained and options["weights"] not in (there := [*models.get_model_weights(name).__members__]):
        raise ConfigError(f"weights must be null or one of {', '.join(there)}, got {options['weights']!r}")
    if not pretrained:
        options = {"num_classes": classes, **options}
        if name in _AUXILIARY:
            options = {"aux_logits": False, "init_weights": True, **options}
    try:
        model: nn.Module = models.get_model(name, **options)
    except OSError as error:
        raise ConfigError(f"its weights cannot be downloaded ({first_line(error)}); or use weights: null") from None
    except Exception as error:  # a builder may raise anything for a wrong option
        raise ConfigError(f"options {options}: {first_line(error)}") from None
    if pretrained:
        for head in _AUXILIARY_HEADS & vars(model)["_modules"].keys():
            setattr(model, head, None)
        vars(model)["aux_logits"] = False  # an attribute of the networks that have auxiliary heads
        _replace_head(model, classes)
    if channels != 3:
        vars(model)["transform_input"] = False  # an attribute of the same networks: rescales three colours
        _replace_stem(model, channels)
    return model


def _replace_head(model: nn.Module, classes: int) -> None:
    """Replace the last linear layer, or the last convolution of a network that has none, by a fresh one."""
    modules = list(model.named_modules())
    linear = [(name, module) for name, module in modules if isinstance(module, nn.Linear)]
    name, old = linear[-1] if linear else [(n, m) for n, m in modules if isinstance(m, nn.Conv2d)][-1]
    _put(model, name, _like(old, outside=classes))


def _replace_stem(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one that takes ``channels``.

    Each channel gets the sum of the old weights over colours, divided by ``channels``: outputs keep their scale.
    """
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    stem = _like(old, inside=channels)
    with torch.no_grad():
        stem.weight.copy_(old.weight.sum(1, keepdim=True) / channels)
    _put(model, name, stem)


def _like(old: Any, inside: int | None = None, outside: int | None = None) -> Any:
    """A fresh layer like ``old`` with other numbers of input or output features."""
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        return nn.Linear(inside or old.in_features, outside or old.out_features, bias=bias)
    inside, outside = inside or old.in_channels, outside or old.out_channels
    return nn.Conv2d(inside, outside, old.kernel_size, old.stride, old.padding, old.dilation, bias=bias)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
