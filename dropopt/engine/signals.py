"""Signals: what the training loop reported last."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dropopt.config import Performance


@dataclass(frozen=True)
class Signals:
    """Progress and metrics as last reported to ``step``; a metric is None until its first report."""

    progress: float = 0.0  # t, in [0, 1]
    val_loss: float | None = None  # nats
    train_loss: float | None = None  # nats
    val_accuracy: float | None = None  # in [0, 1]

    def updated(self, progress: float, **news: float | None) -> Signals:
        """Return a copy with the new values; None keeps the last one.

        Raises:
            ValueError: if a metric is not finite.
        """
        known = {name: value if value is not None else getattr(self, name) for name, value in news.items()}
        for name, value in known.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        return Signals(progress=progress, **known)

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
