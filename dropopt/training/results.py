"""What training returns: a report after each epoch, a result at the end, or an error that says where it diverged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dropopt.training.rates import Rates


@dataclass(frozen=True)
class EpochReport:
    """One completed epoch. Losses are mean cross-entropies per image, in nats.

    Args:
        epoch: Number of the epoch, from 1.
        epochs: How many epochs are planned.
        train_loss: Loss as optimised: with dropout, augmentation and label smoothing.
        val_loss: Loss on the validation split, without any of these.
        val_accuracy: Accuracy on the validation split, in [0, 1].
        smoothed_loss: Exponential moving average of ``val_loss`` up to this epoch, corrected for its start at zero.
        objective: What is minimised: ``smoothed_loss``, or the same average of 1 - ``val_accuracy`` if accuracy is
            optimised. NaN if it is not known.
        lr: Learning rate of the epoch's last step.
        seconds: Wall-clock time of the epoch, validation included.
        rates: The engine's rates with which the epoch ended, one row per site; empty without an engine.
        weights: The efficacy weights of eq. (15) with which the epoch ended, by method.

    Example:
        >>> losses = {"train_loss": 1.2, "val_loss": 1.0, "smoothed_loss": 1.0}
        >>> report = EpochReport(epoch=1, epochs=9, val_accuracy=0.7, lr=0.1, seconds=2.5, **losses)
        >>> f"epoch {report.epoch} of {report.epochs}: {report.val_accuracy:.0%}"
        'epoch 1 of 9: 70%'
    """

    epoch: int
    epochs: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    smoothed_loss: float
    lr: float
    seconds: float
    rates: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    objective: float = math.nan


@dataclass(frozen=True)
class TrainResult:
    """A finished training; the model holds the weights of ``best_epoch``.

    Args:
        smoothed_loss: Smoothed validation loss of the last epoch.
        best_epoch: The epoch (from 1) with the lowest objective: smoothed validation loss or error.
        best_val_loss: Validation loss of that epoch.
        best_val_accuracy: Validation accuracy of that epoch, in [0, 1].
        history: The report of every epoch.
        rates: The drop rates of the best epoch, by site and tensor; empty without an engine.
        objective: The objective of the last epoch: the value that studies minimise. Default: ``smoothed_loss``.
        scores: Further scores of the network, by name; empty from :func:`fit`.

    Example:
        >>> result = TrainResult(0.4, best_epoch=2, best_val_loss=0.3, best_val_accuracy=0.9, history=[])
        >>> result.best_epoch
        2
    """

    smoothed_loss: float
    best_epoch: int
    best_val_loss: float
    best_val_accuracy: float
    history: list[EpochReport]
    rates: Rates = field(default_factory=dict, compare=False, repr=False)
    objective: float = math.nan
    scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if math.isnan(self.objective):
            object.__setattr__(self, "objective", self.smoothed_loss)


class DivergedError(ArithmeticError):
    """A loss, or the metric that trials are judged by, that is not finite.

    Args:
        epoch: The epoch, from 1.
        step: The step within the epoch, from 1.
        loss: The loss, or the metric.
        what: Which it is, in words: training loss, validation loss, or the metric.

    Example:
        >>> print(DivergedError(epoch=2, step=5, loss=float("inf")))
        training loss is inf at epoch 2, step 5; a lower lr may help
    """

    def __init__(self, epoch: int, step: int, loss: float, what: str = "training loss") -> None:
        # The base class gets all arguments: otherwise the exception cannot be unpickled in another process.
        super().__init__(epoch, step, loss, what)
        self.epoch = epoch
        self.step = step

    def __str__(self) -> str:
        epoch, step, loss, what = self.args
        advice = "a lower lr may help"
        if not what.endswith(" loss"):  # the losses are finite, so training is not the cause
            advice = "the losses are finite; let it return a number where it is not defined, such as 0"
        return f"{what} is {loss} at epoch {epoch}, step {step}; {advice}"


def smoothed(losses: list[float], decay: float) -> list[float]:
    """Exponential moving average after each loss or error, corrected for its start at zero.

    After n losses it is the weighted mean sum_i decay^(n-i) loss_i / sum_i decay^(n-i).
    """
    average, out = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = decay * average + (1 - decay) * loss
        out.append(average / (1 - decay**count))
    return out
