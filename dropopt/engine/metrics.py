"""Metrics: what the training loop reported last."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import SupportsFloat

from torch import Tensor

from dropopt.config import EngineConfig, Performance

#: A mean of accuracies, or progress that is a sum of fractions, may exceed 1 by this much because of rounding.
_ROUNDING = 1e-6


#: The metrics of which P of eq. (9)-(11) is made.
_PERFORMANCE: dict[Performance, set[str]] = {
    "accuracy": {"val_accuracy"},
    "loss": {"val_loss"},
    "ratio": {"val_loss", "train_loss"},
}


@dataclass(frozen=True)
class Metrics:
    """Progress and metrics as last reported to ``step``; a metric is None until its first report."""

    progress: float = 0.0  # t, in [0, 1]
    val_loss: float | None = None  # nats
    train_loss: float | None = None  # nats
    val_accuracy: float | None = None  # in [0, 1]

    def updated(self, progress: float, **news: SupportsFloat | None) -> Metrics:
        """Return a copy with the new values as plain numbers; None keeps the last one.

        Raises:
            ValueError: if a metric is not a finite number, or if the accuracy is outside [0, 1].
        """
        numbers = {name: as_number(name, value) for name, value in news.items() if value is not None}
        accuracy = numbers.get("val_accuracy")
        if accuracy is not None:
            if not 0 <= accuracy <= 1 + _ROUNDING:
                raise ValueError(f"val_accuracy must be in [0, 1], got {accuracy:g}: divide a percentage by 100")
            numbers["val_accuracy"] = min(accuracy, 1.0)
        return replace(self, progress=progress, **numbers)

    def performance(self, kind: Performance) -> float | None:
        """Return P of eq. (9)-(11), positive because its logarithm is taken; None before the first report."""
        if kind == "accuracy":
            value = self.val_accuracy
        elif kind == "loss":
            value = self.val_loss
        elif self.val_loss is None or not self.train_loss:
            value = None
        else:
            value = self.val_loss / self.train_loss
        return None if value is None else max(value, 1e-6)


def used_metrics(config: EngineConfig) -> set[str]:
    """Return the names of the metrics that the equations use with ``config``."""
    used = set()
    if config.alpha and (config.uses("adaptive") or config.allocation == "importance"):
        used.add("val_loss")  # eq. (2)
    if config.uses("contextual") and config.performance_psi:
        used |= _PERFORMANCE[config.performance]
    if config.efficacy == "adaptive":
        used |= {"val_loss", "train_loss"}
    return used


def as_number(name: str, value: SupportsFloat) -> float:
    """Return ``value``, which may be a number of NumPy or a tensor with one element, as a plain float.

    Raises:
        ValueError: if it is not a finite number.
    """
    try:
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def as_progress(epoch: SupportsFloat, epochs: int) -> float:
    """Return the progress of training, epoch / epochs, in [0, 1].

    Raises:
        ValueError: if ``epochs`` is below 1, or ``epoch`` is outside [0, epochs].
    """
    done, total = as_number("epoch", epoch), as_number("epochs", epochs)
    if total < 1:
        raise ValueError(f"epochs, those of the whole training, must be 1 or more, got {epochs}")
    if not 0 <= done <= total * (1 + _ROUNDING):
        raise ValueError(f"epoch must be in [0, {epochs}], got {epoch}")
    return min(done / total, 1.0)
