"""evaluate: loss and accuracy of a model on a split; score adds the calibration error.

Also the precision and layout of batches, which fit uses too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

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
#: Bins of equal width of the expected calibration error.
BINS = 15


@dataclass(frozen=True)
class Scores:
    """What :func:`score` returns: loss in nats, accuracy in [0, 1], and expected calibration error in [0, 1]."""

    loss: float
    accuracy: float
    ece: float


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
    sums = [
        torch.stack([F.cross_entropy(logits, labels, reduction="sum").double(), (logits.argmax(1) == labels).sum()])
        for logits, labels in _outputs(model, split, config)
    ]
    loss, right = torch.stack(sums).sum(0).tolist()
    return loss / len(split), right / len(split)


def score(model: nn.Module, split: Split, config: TrainConfig) -> Scores:
    """Compute loss, accuracy and expected calibration error of ``model`` in eval mode on ``split``.

    The expected calibration error is sum_b n_b / n |accuracy_b - confidence_b| over 15 bins of equal width of the
    confidence, the highest probability of an image (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
        model: See :func:`evaluate`.
        split: See :func:`evaluate`.
        config: See :func:`evaluate`.

    Returns:
        The scores.

    Raises:
        ConfigError: If the split is empty.

    Example:
        >>> from dropopt.config import TrainConfig
        >>> images = torch.tensor([[9.0, 0], [0, 9], [9, 0], [9, 0]]).view(4, 2, 1, 1)
        >>> split = Split(images, torch.tensor([0, 1, 0, 1]))
        >>> scores = score(nn.Flatten(), split, TrainConfig(device="cpu"))
        >>> scores.accuracy, round(scores.ece, 3)  # confidence 0.9999
        (0.75, 0.25)
    """
    logits, labels = (torch.cat(parts) for parts in zip(*_outputs(model, split, config), strict=True))
    probabilities = logits.double().softmax(1)
    confidence, chosen = probabilities.max(1)
    right = (chosen == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64, device=right.device).index_add_(0, bins, right - confidence)
    loss = F.cross_entropy(logits.double(), labels).item()
    return Scores(loss, right.mean().item(), (gaps.abs().sum() / len(labels)).item())


def _outputs(model: nn.Module, split: Split, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (float32) and the labels of each batch, on the model's device."""
    if not len(split):
        raise ConfigError("an empty split cannot be evaluated")
    device = next((p.device for p in model.parameters()), resolve_device(config.device))
    height, width = split.images.shape[2:]
    size = GPU_BATCH if device.type == "cuda" else max(32, min(GPU_BATCH, CPU_PIXELS // (height * width)))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for images, labels in zip(torch.split(split.images, size), torch.split(split.labels, size), strict=True):
            # no_grad, not inference_mode: a tensor that the model keeps must remain usable in training.
            with torch.no_grad(), autocast(config, device):
                logits = model(in_layout(images.to(device), config))
            yield logits.float(), labels.to(device)
    finally:
        for module, training in modes.items():
            module.training = training
