"""torchvision's classifiers, fitted to other numbers of channels and classes than ImageNet's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dropopt.config import ConfigError
from dropopt.explain import first_line
from dropopt.known import close_matches

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
    file = _file(options["weights"])
    if file is not None:
        return _from_file(name, file, options, channels=channels, classes=classes)
    pretrained = options["weights"] is not None
    if "pretrained" in options:
        raise ConfigError("pretrained is an option of timm; for torchvision use weights: DEFAULT")
    if pretrained and options["weights"] not in (there := [*models.get_model_weights(name).__members__]):
        raise ConfigError(
            f"weights must be null, a file (.pth, .pt), or one of {', '.join(there)}, got {options['weights']!r}"
        )
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


def _file(weights: Any) -> Path | None:
    """The file that the option ``weights`` names; None if it names none."""
    path = Path(weights).expanduser() if isinstance(weights, str) else None
    return path if path is not None and path.suffix in (".pth", ".pt") else None


def _from_file(name: str, file: Path, options: Mapping[str, Any], *, channels: int, classes: int) -> nn.Module:
    """Build a network with the weights in a file, and give it a fresh output layer."""
    from torchvision import models

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(
            f"{file.absolute()} does not exist; to write torchvision's weights to it: python -c \"import torch, "
            f"torchvision; torch.save(torchvision.models.get_model('{name}', weights='DEFAULT').state_dict(), "
            f"'{file}')\""
        ) from None
    except Exception as error:
        raise ConfigError(f"{file} holds no weights: {first_line(error)}") from None
    others = {key: value for key, value in options.items() if key != "weights"}
    try:
        model: nn.Module = models.get_model(name, weights=None, **others)
        outputs = state[f"{_head(model)}.weight"].shape[0]
        if "num_classes" not in others:
            model = models.get_model(name, weights=None, num_classes=outputs, **others)
        model.load_state_dict(state)
    except Exception as error:
        raise ConfigError(f"{file} does not hold the weights of {name}: {first_line(error)}") from None
    _replace_head(model, classes)
    if channels != 3:
        _replace_stem(model, channels)
    return model


def _head(model: nn.Module) -> str:
    """The name of the last linear layer, or of the last convolution of a network that has none."""
    modules: list[tuple[str, nn.Module]] = list(model.named_modules())
    linear: list[str] = [name for name, module in modules if isinstance(module, nn.Linear)]
    return linear[-1] if linear else [name for name, module in modules if isinstance(module, nn.Conv2d)][-1]


def _replace_head(model: nn.Module, classes: int) -> None:
    """Replace the output layer by a fresh one."""
    name = _head(model)
    _put(model, name, _like(model.get_submodule(name), outside=classes))


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
