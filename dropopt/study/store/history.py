"""The epochs of a trial: its losses, its accuracy, its drop rates and the weights of its methods.

Optuna stores one value of each epoch, the smoothed validation loss. The rest is stored for the best trials only, as a
system attribute, which dashboards do not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from optuna.trial import FrozenTrial

from dropopt.study.store.keys import HISTORY

#: Numbers of drop rates that are stored; of a large network trained for long, only some epochs are kept.
MOST_RATES = 4000
#: Decimals of a stored number.
DECIMALS = 5

_T = TypeVar("_T")


class Epoch(Protocol):
    """The report of an epoch."""

    @property
    def epoch(self) -> int:
        """The epoch, from 1."""

    @property
    def train_loss(self) -> float:
        """Training loss."""

    @property
    def val_loss(self) -> float:
        """Validation loss, not smoothed."""

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy, in [0, 1]."""

    @property
    def rates(self) -> Mapping[str, float]:
        """The applied drop rate at each place, in [0, 1]."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The efficacy weight of each method; they sum to 1."""


@dataclass(frozen=True)
class History:
    """The epochs of a trial, one number for each epoch. A number that is not finite is None.

    Attributes:
        epochs: The epochs, from 1.
        train_loss: Training loss.
        val_loss: Validation loss, not smoothed.
        val_accuracy: Validation accuracy.
        rate_epochs: The epochs of ``rates`` and ``weights``.
        rates: The applied drop rate by place, in order of execution.
        weights: The efficacy weight by method.
    """

    epochs: tuple[int, ...] = ()
    train_loss: tuple[float | None, ...] = ()
    val_loss: tuple[float | None, ...] = ()
    val_accuracy: tuple[float | None, ...] = ()
    rate_epochs: tuple[int, ...] = ()
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, reports: Sequence[Epoch]) -> History:
        """The history of the reports of a trial, in order."""
        places = list(reports[0].rates) if reports else []
        kept = thinned(reports, max(1, MOST_RATES // max(1, len(places))))
        return cls(
            epochs=tuple(report.epoch for report in reports),
            train_loss=tuple(_rounded(report.train_loss) for report in reports),
            val_loss=tuple(_rounded(report.val_loss) for report in reports),
            val_accuracy=tuple(_rounded(report.val_accuracy) for report in reports),
            rate_epochs=tuple(report.epoch for report in kept),
            rates=_columns(places, [report.rates for report in kept]),
            weights=_columns(reports[0].weights if reports else (), [report.weights for report in kept]),
        )

    def plain(self) -> dict[str, Any]:
        """The history as values for JSON."""
        return {name: dict(value) if isinstance(value, Mapping) else list(value) for name, value in vars(self).items()}


def history_of(trial: FrozenTrial) -> History | None:
    """Return the history that is stored with a trial; None if there is none."""
    stored = trial.system_attrs.get(HISTORY)
    if not isinstance(stored, Mapping) or not set(vars(History())) <= stored.keys():
        return None
    return History(**{name: _tuples(stored[name]) for name in vars(History())})


def _tuples(stored: Any) -> Any:
    """A list of JSON as a tuple, and an object of lists as a dictionary of tuples."""
    return {name: tuple(values) for name, values in stored.items()} if isinstance(stored, dict) else tuple(stored)


def _columns(names: Iterable[str], rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(_rounded(row.get(name, 0.0)) or 0.0 for row in rows) for name in names}


def _rounded(value: float) -> float | None:
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def thinned(items: Sequence[_T], most: int) -> list[_T]:
    """Return at most ``most`` items at even distances, with the first and the last; the last one if ``most`` is 1."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]
