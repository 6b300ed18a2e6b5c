"""evaluate: loss and accuracy of a model on a split. Also the precision and layout of batches, which fit uses too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dropopt.config import ConfigError, TrainConfig
from dropopt.training.data.split import Split
from dropopt.training.device import computes_bf16, resolve_device

#: Pixels per batch on a CPU: activations of larger batches do not fit into its caches. 256 images of 28x28 took half
#: the time of 1000.
CPU_PIXELS = 200_000
#: Images per batch on a GPU, and at most on a CPU.
GPU_BATCH = 2048


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
    """Compute in bf16 if ``config.amp`` says so."""
    wanted = computes_bf16(device) if config.amp == "auto" else config.amp == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def in_layout(images: Tensor, config: TrainConfig) -> Tensor:
    """Return a batch (N, C, H, W) in the memory layout that ``config`` names, copied only if it has another."""
    if config.channels_last:
        return images.contiguous(memory_format=torch.channels_last)
    # A batch with one channel satisfies both layouts, but layers choose theirs by the strides: set these explicitly.
    return images.contiguous().flatten().view(images.shape)


def evaluate(model: nn.Module, split: Split, config: TrainConfig) -> tuple[float, float]:
    """Compute the mean cross-entropy and the accuracy of ``model`` in eval mode on ``split``.

    Modes, BatchNorm statistics, gradients and torch's random state are left as they were. Label smoothing is not
    applied.

    Args:
        model: Maps images (N, C, H, W) to logits (N, classes).
        split: Images and labels, at least one.
        config: Its ``amp``, ``channels_last`` and, for a model without parameters, ``device`` are used.

    Returns:
        Loss in nats, and accuracy in [0, 1].

    Raises:
        ConfigError: If the split is empty.

    Example:
        >>> from dropopt.config import TrainConfig
        >>> images = torch.tensor([[9.0, 0], [0, 9], [9, 0], [9, 0]]).view(4, 2, 1, 1)
        >>> split = Split(images, torch.tensor([0, 1, 0, 1]))
        >>> loss, accuracy = evaluate(nn.Flatten(), split, TrainConfig(device="cpu"))
        >>> round(loss, 2), accuracy
        (2.25, 0.75)
    """
    if not len(split):
        raise ConfigError("an empty split cannot be evaluated")
    device = device_of(model, config)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        done = 0
        for logits in batches_of_logits(model, split.images, config):
            labels = split.labels[done : done + len(logits)].to(device)
            done += len(logits)
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
            right += (logits.argmax(1) == labels).sum()
    finally:
        for module, training in modes.items():
            module.training = training
    return loss.item() / len(split), right.item() / len(split)


def batches_of_logits(model: nn.Module, images: Tensor, config: TrainConfig) -> Iterator[Tensor]:
    """Yield the logits of ``images`` (N, C, H, W) in batches that fit into the device, without gradients.

    The modes of the model's modules are not changed.
    """
    device = device_of(model, config)
    height, width = images.shape[2:]
    size = GPU_BATCH if device.type == "cuda" else max(32, min(GPU_BATCH, CPU_PIXELS // (height * width)))
    for batch in torch.split(images, size):
        # no_grad, not inference_mode: a tensor that the model keeps must remain usable in training.
        with torch.no_grad(), autocast(config, device):
            logits: Tensor = model(in_layout(batch.to(device), config))
        yield logits


def device_of(model: nn.Module, config: TrainConfig) -> torch.device:
    """The device of the model's parameters; that of ``config`` for a model without any."""
    return next((p.device for p in model.parameters()), None) or resolve_device(config.device)
