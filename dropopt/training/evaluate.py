"""Loss and accuracy of a model on a split."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dropopt.config import ConfigError, TrainConfig
from dropopt.training.data.split import Split
from dropopt.training.device import computes_bf16, resolve_device

#: Pixels in a batch on a CPU: maps of more leave its caches. 256 images of 28x28 took half the time of 1000.
CPU_PIXELS = 200_000
GPU_BATCH = 2048


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
    """bf16 where ``config`` asks for it."""
    wanted = computes_bf16(device) if config.amp == "auto" else config.amp == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def in_layout(images: Tensor, config: TrainConfig) -> Tensor:
    """A batch (N, C, H, W) in the memory layout that ``config`` asks for; no copy if it has it already."""
    if config.channels_last:
        return images.contiguous(memory_format=torch.channels_last)
    # Images of one channel have either layout; layers ask the strides, so let these say which.
    return images.contiguous().flatten().view(images.shape)


def evaluate(model: nn.Module, split: Split, config: TrainConfig) -> tuple[float, float]:
    """Mean cross-entropy (without label smoothing) and accuracy of ``model`` in eval mode on ``split``."""
    if not len(split):
        raise ConfigError("an empty split cannot be evaluated")
    device = next((p.device for p in model.parameters()), resolve_device(config.device))
    height, width = split.images.shape[2:]
    size = GPU_BATCH if device.type == "cuda" else max(32, min(GPU_BATCH, CPU_PIXELS // (height * width)))
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # no_grad, not inference_mode: what a model keeps from an evaluation must be usable in training.
        with torch.no_grad():
            for images, labels in zip(torch.split(split.images, size), torch.split(split.labels, size), strict=True):
                labels = labels.to(device)
                with autocast(config, device):
                    logits = model(in_layout(images.to(device), config))
                loss += F.cross_entropy(logits.float(), labels, reduction="sum")
                right += (logits.argmax(1) == labels).sum()
    finally:
        for module, training in modes.items():
            module.training = training
    return loss.item() / len(split), right.item() / len(split)
