"""The optimizer, and its learning rate as a function of progress, so that a schedule has no state of its own."""

from __future__ import annotations

import math

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

    Weight decay applies to parameters of two or more dimensions, hence not to biases and normalisation layers.

    Raises:
        ConfigError: If no parameter requires a gradient.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("the model has no parameter that requires a gradient")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


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
