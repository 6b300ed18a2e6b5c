"""The epochs of a trial: its losses, its accuracy, its drop rates and the weights of its methods.

Optuna stores one value of each epoch, the smoothed validation loss. The rest is stored for the best trials only, as a
system attribute, which dashboards do not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optuna.trial import FrozenTrial

from dropopt.study.store.keys import HISTORY

_T = TypeVar("_T")


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


def thinned(items: Sequence[_T], most: int) -> list[_T]:
    """Return at most ``most`` items at even distances, with the first and the last; the last one if ``most`` is 1."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]
