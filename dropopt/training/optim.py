"""The optimizer, and its learning rate as a function of progress, so that a schedule has no state of its own."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from dropopt.config import ConfigError, TrainConfig

#: One cycle, with the defaults of PyTorch's OneCycleLR: the share of the steps in which the rate rises (pct_start),
#: and its first and last value as fractions of lr (1 / div_factor, and that / final_div_factor).
RISE = 0.3
START = 1 / 25
END = 1 / 250_000


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build SGD with Nesterov momentum, or AdamW.

    Weight decay applies to parameters of two or more dimensions, hence not to biases and normalisation layers. The
    parameters of a group share the factor ``lr_scale`` of the learning rate; those with the factor 0 are frozen.

    Raises:
        ConfigError: If no parameter requires a gradient, or if a pattern of ``lr_scale`` matches none.
    """
    scales = _scales(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("the model has no parameter that requires a gradient")
    groups: list[dict[str, Any]] = []
    for scale in dict.fromkeys(scales.get(p, 1.0) for p in trained):
        alike = [p for p in trained if scales.get(p, 1.0) == scale]
        matrices, vectors = [p for p in alike if p.ndim > 1], [p for p in alike if p.ndim <= 1]
        for parameters, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "lr_scale": scale})
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


def _scales(model: nn.Module, config: TrainConfig) -> dict[nn.Parameter, float]:
    """The factor of each parameter that a pattern matches; those with the factor 0 no longer require a gradient."""
    if not config.lr_scale:
        return {}
    named = dict(model.named_parameters())
    for pattern in config.lr_scale:
        if not any(fnmatchcase(name, pattern) for name in named):
            first = ", ".join(list(named)[:3])
            raise ConfigError(f"train.lr_scale: no parameter has a name like {pattern!r}; there are: {first}, ...")
    scales = {}
    for name, parameter in named.items():
        matching = (scale for pattern, scale in config.lr_scale.items() if fnmatchcase(name, pattern))
        if (scale := next(matching, None)) is not None:
            scales[parameter] = scale
            if not scale:
                parameter.requires_grad_(False)
    return scales


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate after the share ``progress``, in [0, 1), of all steps.

    constant: lr. cosine: from lr to 0. onecycle: from lr * START to lr, then to lr * END, both along half a cosine.
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * _cosine(1.0, 0.0, progress)
    if progress < RISE:
        return config.lr * _cosine(START, 1.0, progress / RISE)
    return config.lr * _cosine(1.0, END, (progress - RISE) / (1 - RISE))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
