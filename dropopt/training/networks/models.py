"""Networks by name: the reference CNNs, torchvision's, timm's, or a person's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError, ModelConfig, suggestion
from dropopt.owncode import call_with, own_errors, own_function
from dropopt.randomness import global_stream
from dropopt.training.networks import reference

REFERENCE: dict[str, Callable[..., nn.Module]] = {
    "small": reference.small,
    "resnet9": reference.resnet9,
    "vgg": reference.vgg,
}

#: torchvision networks that return extra heads while training, unless told not to.
_AUXILIARY = ("googlenet", "inception_v3")
_HEADS = {"aux1", "aux2", "AuxLogits"}

#: timm's options that read files or addresses of the caller's choice: settings may come from elsewhere.
_NOT_FROM_SETTINGS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def build_model(
    config: ModelConfig, *, channels: int, classes: int, image_size: int | tuple[int, int], seed: int
) -> nn.Module:
    """The network that ``config`` names, on the CPU, tried on images of that size.

    Initial weights depend on ``seed`` alone; torch's random state is left as it was. Raises ConfigError when there
    is no such network, an option does not fit, or the network cannot take such images.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    build = _builder(config.name)
    with global_stream(seed, "weights"):
        try:
            model = build({"channels": channels, "classes": classes, "image_size": size}, config.options)
        except ConfigError as error:
            raise ConfigError(f"model {config.name}: {error}") from None
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model {config.name}: expected a torch.nn.Module, got {type(model).__name__}")
        _try(model, config.name, (channels, *size), classes)
    return model


_Builder = Callable[[dict[str, Any], dict[str, Any]], Any]


def _builder(name: str) -> _Builder:
    kind, colon, rest = name.partition(":")
    if name in REFERENCE:
        return lambda shape, options: _reference(REFERENCE[name], shape, options)
    if kind == "torchvision" and rest:
        return lambda shape, options: _torchvision(rest, shape, options)
    if kind == "timm" and rest:
        return lambda shape, options: _timm(rest, shape, options)
    if colon and kind not in ("torchvision", "timm"):
        function = own_function(name)
        return lambda shape, options: _own(function, shape, options)
    known = [*REFERENCE, "torchvision:NAME", "timm:NAME", "module:function"]
    raise ConfigError(f"model.name {name!r} is unknown; {suggestion(name, known)}")


def _own(function: Callable[..., Any], shape: dict[str, Any], options: dict[str, Any]) -> Any:
    with own_errors("building it"):
        return call_with(function, shape, options)


def _reference(build: Callable[..., nn.Module], shape: dict[str, Any], options: dict[str, Any]) -> Any:
    if min(shape["image_size"]) < 4:
        raise ConfigError(f"images must be at least 4x4, got {shape['image_size']}")
    return call_with(build, shape, options)


def _torchvision(name: str, shape: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no such classifier{_close(name, known)}")
    options = {"weights": None, **options}
    pretrained = options["weights"] is not None
    if "pretrained" in options:
        raise ConfigError("pretrained is timm's option; torchvision's is weights: DEFAULT")
    if pretrained and options["weights"] not in (there := [*models.get_model_weights(name).__members__]):
        raise ConfigError(f"weights must be null or one of {', '.join(there)}, got {options['weights']!r}")
    if not pretrained:
        options = {"num_classes": shape["classes"], **options}
        if name in _AUXILIARY:
            options = {"aux_logits": False, "init_weights": True, **options}
    try:
        model: nn.Module = models.get_model(name, **options)
    except OSError as error:
        raise ConfigError(f"its weights cannot be downloaded ({_line(error)}); or use weights: null") from None
    except Exception as error:  # whatever its builder makes of an option
        raise ConfigError(f"options {options}: {_line(error)}") from None
    if pretrained:
        for head in _HEADS & vars(model)["_modules"].keys():
            setattr(model, head, None)
        vars(model)["aux_logits"] = False  # a plain attribute, of the networks that have extra heads
        _replace_head(model, shape["classes"])
    if shape["channels"] != 3:
        vars(model)["transform_input"] = False  # likewise: another scale for the three colours
        _replace_stem(model, shape["channels"])
    return model


def _timm(name: str, shape: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ConfigError("timm is not installed; pip install timm") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ConfigError(f"timm has no such model{_close(name, known)}")
    if barred := sorted(set(_NOT_FROM_SETTINGS) & set(options)):
        raise ConfigError(f"option {barred[0]!r} is not allowed; a function of your own may use it")
    options = {"num_classes": shape["classes"], "in_chans": shape["channels"], **options}
    try:
        model: nn.Module = timm.create_model(name, **options)
    except OSError as error:
        raise ConfigError(f"weights cannot be downloaded ({_line(error)}); or use pretrained: false") from None
    except Exception as error:  # whatever its builder makes of an option
        raise ConfigError(f"options {options}: {_line(error)}") from None
    return model


# -- fitting a network made for ImageNet


def _replace_head(model: nn.Module, classes: int) -> None:
    """A fresh last layer: the last linear one, or the last convolution of a network that has none."""
    modules = list(model.named_modules())
    linear = [(name, module) for name, module in modules if isinstance(module, nn.Linear)]
    name, old = linear[-1] if linear else [(n, m) for n, m in modules if isinstance(m, nn.Conv2d)][-1]
    _put(model, name, _like(old, outside=classes))


def _replace_stem(model: nn.Module, channels: int) -> None:
    """A first convolution for ``channels``; its weights are the old ones' mean over colours, at the same scale."""
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    stem = _like(old, inside=channels)
    with torch.no_grad():
        stem.weight.copy_(old.weight.sum(1, keepdim=True) / channels)
    _put(model, name, stem)


def _like(old: Any, inside: int | None = None, outside: int | None = None) -> Any:
    """A fresh layer like ``old`` with other numbers of features."""
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        return nn.Linear(inside or old.in_features, outside or old.out_features, bias=bias)
    inside, outside = inside or old.in_channels, outside or old.out_channels
    return nn.Conv2d(inside, outside, old.kernel_size, old.stride, old.padding, old.dilation, bias=bias)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


# -- checks


def _try(model: nn.Module, name: str, shape: tuple[int, ...], classes: int) -> None:
    """Send two blank images through, in eval mode: nothing of the model changes."""
    model.eval()
    what = f"model {name}, given {'x'.join(str(side) for side in shape)} images,"
    try:
        with torch.no_grad():
            out = model(torch.zeros(2, *shape))
    except Exception as error:
        raise ConfigError(f"{what} fails: {_line(error)}") from error
    if not isinstance(out, Tensor) or out.shape != (2, classes):
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ConfigError(f"{what} must return logits (N, {classes}), returned {given} for N = 2")
    model.train()


def _close(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AttributeError | NameError) else text
