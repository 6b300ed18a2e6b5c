"""The optimizer, and its learning rate as a function of progress: nothing to carry from step to step."""

from __future__ import annotations

import math

import torch
from torch import nn

from dropopt.config import ConfigError, TrainConfig

#: One cycle, as in PyTorch's scheduler: share of the steps that the rate climbs, and where it starts and ends.
CLIMB = 0.3
START = 1 / 25
END = 1 / 250_000


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases, all of one dimension, do not decay."""
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
    """The rate when the share ``progress`` of all steps, in [0, 1), has been taken."""
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * _cosine(1.0, 0.0, progress)
    if progress < CLIMB:
        return config.lr * _cosine(START, 1.0, progress / CLIMB)
    return config.lr * _cosine(1.0, END, (progress - CLIMB) / (1 - CLIMB))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
