"""What training tells: a report after each epoch, a result at the end, or where it diverged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochReport:
    """One completed epoch; losses in nats."""

    epoch: int  # from 1
    epochs: int  # planned
    train_loss: float  # as optimised: with dropout, augmentation and label smoothing
    val_loss: float  # plain cross-entropy
    val_accuracy: float
    smoothed_loss: float  # moving average of val_loss so far
    lr: float  # of the epoch's last step
    seconds: float
    #: One row per site and the efficacy weights, as they were in force when the epoch ended.
    rates: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """A finished training; the model holds the weights of ``best_epoch``."""

    smoothed_loss: float  # of the last epoch: what studies minimise
    best_epoch: int  # where the smoothed loss was lowest
    best_val_loss: float  # validation loss of that epoch
    best_val_accuracy: float  # accuracy of that epoch
    history: list[EpochReport]


class DivergedError(ArithmeticError):
    """A loss was not finite at ``step`` (from 1) of ``epoch`` (from 1)."""

    def __init__(self, epoch: int, step: int, loss: float, what: str = "training") -> None:
        # All arguments go to the base: an exception that cannot be pickled cannot cross a process.
        super().__init__(epoch, step, loss, what)
        self.epoch = epoch
        self.step = step

    def __str__(self) -> str:
        epoch, step, loss, what = self.args
        return f"{what} loss is {loss} at epoch {epoch}, step {step}; a lower lr may help"


def smoothed(losses: list[float], decay: float) -> list[float]:
    """Exponential moving average after each loss, corrected for its start at zero."""
    average, out = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = decay * average + (1 - decay) * loss
        out.append(average / (1 - decay**count))
    return out
