"""build_model: from a setting to a network that is known to accept the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError, ModelConfig
from dropopt.explain import first_line
from dropopt.inputs import Inputs, parts, run_model
from dropopt.known import unknown_network
from dropopt.owncode import call_with, own_errors, own_function
from dropopt.randomness import global_stream
from dropopt.training.networks import reference
from dropopt.training.networks.timm_models import timm_model
from dropopt.training.networks.torchvision_models import torchvision_model

REFERENCE: dict[str, Callable[..., nn.Module]] = {
    "small": reference.small,
    "resnet9": reference.resnet9,
    "vgg": reference.vgg,
}


def build_model(
    config: ModelConfig,
    *,
    channels: Any,
    classes: int,
    image_size: Any,
    seed: int,
    logits: bool = True,
    example: Inputs | None = None,
) -> nn.Module:
    """Build a network and test it on two blank images.

    The initial weights depend on ``seed`` only; torch's global random state is left unchanged.

    Args:
        config: The network's name (small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function) and options.
        channels: Channels of an image; a tuple or a dictionary if the network takes several inputs.
        classes: Number of classes, or of outputs.
        image_size: Height and width of an image in pixels, or one number for both; for samples of other shapes, their
            sides after the channels. A tuple or a dictionary of these if the network takes several inputs.
        seed: Seed of the initial weights.
        logits: Whether the network must return logits (N, classes). If not, any output will do.
        example: Two samples, with which a network is tested that takes several inputs.

    Returns:
        The network on the CPU, in training mode. It maps (N, channels, H, W) to logits (N, classes).

    Raises:
        ConfigError: For an unknown network, a wrong option, or a network that does not accept such images.

    Example:
        >>> from dropopt.config import ModelConfig
        >>> config = ModelConfig(name="small", options={"widths": (8,), "head": 16})
        >>> model = build_model(config, channels=1, classes=3, image_size=8, seed=0)
        >>> model(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 3])
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
        blank = torch.zeros(2, channels, *size) if example is None or isinstance(example, Tensor) else example
        _try(model, config.name, blank, classes if logits else None)
    return model


#: Builds a network from what it must fit (channels, classes, image_size) and from its options.
_Builder = Callable[[dict[str, Any], dict[str, Any]], Any]


def _builder(name: str) -> _Builder:
    kind, colon, rest = name.partition(":")
    if name in REFERENCE:
        return lambda shape, options: _reference(REFERENCE[name], shape, options)
    if kind == "torchvision" and rest:
        return lambda shape, options: torchvision_model(rest, options, **_numbers(shape))
    if kind == "timm" and rest:
        return lambda shape, options: timm_model(rest, options, **_numbers(shape))
    if colon and kind not in ("torchvision", "timm"):
        function = own_function(name)
        return lambda shape, options: _own(function, shape, options)
    raise unknown_network(name)


def _numbers(shape: dict[str, Any]) -> dict[str, int]:
    _refuse_several(shape)
    return {"channels": shape["channels"], "classes": shape["classes"]}


def _refuse_several(shape: dict[str, Any]) -> None:
    if not isinstance(shape["channels"], int):
        raise ConfigError(
            f"this network takes one input, and the samples have {len(shape['channels'])}; give a function that builds "
            "a network of your own"
        )


def _own(function: Callable[..., Any], shape: dict[str, Any], options: dict[str, Any]) -> Any:
    with own_errors("building it"):
        return call_with(function, shape, options)


def _reference(build: Callable[..., nn.Module], shape: dict[str, Any], options: dict[str, Any]) -> Any:
    _refuse_several(shape)
    if len(shape["image_size"]) != 2:
        raise ConfigError("this network takes images (C, H, W); give a function that builds a network of your own")
    if min(shape["image_size"]) < 4:
        raise ConfigError(f"images must be at least 4x4, got {shape['image_size']}")
    return call_with(build, shape, options)


def _try(model: nn.Module, name: str, samples: Inputs, classes: int | None) -> None:
    """Run two samples through the network in eval mode, which changes none of its buffers."""
    model.eval()
    shapes = ["x".join(str(side) for side in part.shape[1:]) for part in parts(samples).values()]
    kind = f"{shapes[0]} images" if isinstance(samples, Tensor) else f"inputs of {' and '.join(shapes)}"
    what = f"model {name}, given {kind},"
    try:
        with torch.no_grad():
            out = run_model(model, samples)
    except Exception as error:
        raise ConfigError(f"{what} fails: {first_line(error)}") from error
    if classes is not None and (not isinstance(out, Tensor) or out.shape != (2, classes)):
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ConfigError(f"{what} must return logits (N, {classes}), returned {given} for N = 2")
    model.train()
