"""evaluate: loss and metric of a model on a split; calibration_of: its calibration error.

Also the precision and layout of batches, which fit uses too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dropopt.config import ConfigError, TrainConfig
from dropopt.inputs import Inputs, each, parts, run_model
from dropopt.modules import in_eval_mode
from dropopt.training.calibration import calibration_error
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream
from dropopt.training.device import computes_bf16, resolve_device
from dropopt.training.task import Task, joined

#: Pixels per batch on a CPU: activations of larger batches do not fit into its caches. 256 images of 28x28 took half
#: the time of 1000.
CPU_PIXELS = 200_000
#: Images per batch on a GPU, and at most on a CPU.
GPU_BATCH = 2048


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
    """Compute in bf16 if ``config.amp`` says so."""
    wanted = computes_bf16(device) if config.amp == "auto" else config.amp == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def in_layout(images: Inputs, config: TrainConfig) -> Inputs:
    """Return a batch (N, C, H, W) in the memory layout that ``config`` names, copied only if it has another."""

    def moved(part: Tensor) -> Tensor:
        if config.channels_last and part.ndim == 4:
            return part.contiguous(memory_format=torch.channels_last)
        # A batch with one channel satisfies both layouts, but layers choose theirs by the strides: set these.
        return part.contiguous().flatten().view(part.shape)

    return each(moved, images)


def evaluate(
    model: nn.Module, split: Split | Stream, config: TrainConfig, task: Task | None = None
) -> tuple[float, float]:
    """Compute the loss and the metric of ``model`` in eval mode on ``split``: mean cross-entropy and accuracy.

    Modes, BatchNorm statistics, gradients and torch's random state are left as they were. Label smoothing is not
    applied.

    Args:
        model: Maps images (N, C, H, W) to logits (N, classes).
        split: Images and labels, at least one.
        config: Its ``amp``, ``channels_last`` and, for a model without parameters, ``device`` are used.
        task: Another loss and metric; the metric is computed on all outputs at once, on the CPU.

    Returns:
        Loss in nats, and accuracy in [0, 1]; or the loss and the metric of ``task``.

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
    with in_eval_mode(model):
        model.eval()  # a network may do more in it than set modes
        if task is None or (task.is_plain and split.head(1).labels.ndim == 1):
            return _classified(model, split, config, device)
        return _measured(model, split, config, device, task)


def calibration_of(model: nn.Module, split: Split | Stream, config: TrainConfig) -> float:
    """Compute the expected calibration error of ``model`` in eval mode on ``split``.

    Args:
        model: See :func:`evaluate`.
        split: See :func:`evaluate`.
        config: See :func:`evaluate`.

    Returns:
        The error, in [0, 1].

    Example:
        >>> from dropopt.config import TrainConfig
        >>> images = torch.tensor([[9.0, 0], [0, 9], [9, 0], [9, 0]]).view(4, 2, 1, 1)
        >>> split = Split(images, torch.tensor([0, 1, 0, 1]))
        >>> round(calibration_of(nn.Flatten(), split, TrainConfig(device="cpu")), 3)  # confidence 0.9999, accuracy 0.75
        0.25
    """
    with in_eval_mode(model):
        model.eval()
        logits, labels = logits_of(model, split, config)
    return calibration_error(logits.double().softmax(1), labels)


def logits_of(model: nn.Module, split: Split | Stream, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The logits (N, classes) of ``split`` in float32 and its labels (N,), on the CPU; modes are not changed."""
    pairs = [(one.float().cpu(), labels.cpu()) for one, labels in _outputs(model, split, config)]
    logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
    return logits, labels


def _classified(
    model: nn.Module, split: Split | Stream, config: TrainConfig, device: torch.device
) -> tuple[float, float]:
    count = 0
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    for logits, labels in _outputs(model, split, config):
        count += len(labels)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
    return loss.item() / count, right.item() / count


def batches_of_outputs(model: nn.Module, images: Tensor, config: TrainConfig) -> Iterator[Any]:
    """Yield the outputs for ``images`` (N, C, ...) in batches that fit into the device, without gradients.

    The modes of the model's modules are not changed.
    """
    for outputs, _ in _outputs(model, Split(images, torch.zeros(len(images))), config):
        yield outputs


def _batch_size(images: Inputs, device: torch.device) -> int:
    pixels = max(part[0, 0].numel() for part in parts(images).values() if part.ndim > 1)
    return GPU_BATCH if device.type == "cuda" else max(32, min(GPU_BATCH, CPU_PIXELS // pixels))


def device_of(model: nn.Module, config: TrainConfig) -> torch.device:
    """The device of the model's parameters; that of ``config`` for a model without any."""
    return next((p.device for p in model.parameters()), None) or resolve_device(config.device)


def _measured(
    model: nn.Module, split: Split | Stream, config: TrainConfig, device: torch.device, task: Task
) -> tuple[float, float]:
    loss = torch.zeros((), dtype=torch.float64, device=device)
    kept, seen, weights = [], [], 0
    for outputs, targets in _outputs(model, split, config):
        seen.append(targets.cpu())
        weights += (weight := task.weight(seen[-1]))
        with torch.no_grad():
            loss += task.training_loss(outputs, targets, 0.0) * weight
        if task.metric is not None:
            kept.append(_on_cpu(outputs))
    labels = torch.cat(seen)
    mean = loss.item() / max(weights, 1)
    return mean, task.measured(mean, joined(kept) if kept else None, labels)


def _outputs(model: nn.Module, split: Split | Stream, config: TrainConfig) -> Iterator[tuple[Any, Tensor]]:
    """The outputs of the model and the targets on its device, batch by batch, without gradients."""
    device = device_of(model, config)
    for batch in split.batches(_batch_size(split.head(1).images, device)):
        # no_grad, not inference_mode: a tensor that the model keeps must remain usable in training.
        with torch.no_grad(), autocast(config, device):
            outputs = run_model(model, in_layout(batch.to(device).images, config))
        yield outputs, batch.labels.to(device)


def _on_cpu(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float().cpu() if outputs.is_floating_point() else outputs.cpu()
    if isinstance(outputs, dict):
        return {key: _on_cpu(value) for key, value in outputs.items()}
    return type(outputs)(map(_on_cpu, outputs)) if isinstance(outputs, tuple | list) else outputs
