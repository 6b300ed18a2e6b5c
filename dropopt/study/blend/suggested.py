"""Which shares of a blend the trials of a study suggested, and with which values of their other parameters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

#: Number of earlier trials with the same value of a parameter that show which shares are not suggested with it.
FEWEST_ALIKE = 2


class Suggested:
    """Reads each finished trial once.

    Args:
        shares: The names of all shares.
    """

    def __init__(self, shares: frozenset[str]) -> None:
        self._shares = shares
        self._trials: Sequence[FrozenTrial] = ()  # those that were read, in the order of the study
        #: By name and value of a parameter: the number of trials that have it, and the shares that they suggested.
        self._alike: dict[tuple[str, Any], tuple[int, frozenset[str]]] = {}
        #: Whether a trial did not suggest all shares.
        self.missing = False

    def add(self, trials: Sequence[FrozenTrial]) -> bool:
        """Read the finished ``trials`` of a study, a list that is not changed later.

        Returns:
            Whether these include all trials that were read before; if not, they are of another study.
        """
        begin = _common(self._trials, trials)
        before = {id(trial) for trial in self._trials[begin:]}
        new = [trial for trial in trials[begin:] if id(trial) not in before]
        if len(trials) - len(new) != len(self._trials):
            return False
        for trial in new:
            self._read(trial)
        self._trials = trials
        return True

    def never_with(self, name: str, value: Any) -> frozenset[str]:
        """Return the shares that no trial suggested together with a value; none if too few trials have the value."""
        count, shares = self._alike.get((name, value), (0, frozenset()))
        return self._shares - shares if count >= FEWEST_ALIKE else frozenset()

    def _read(self, trial: FrozenTrial) -> None:
        suggested = self._shares & trial.params.keys()
        self.missing = self.missing or suggested != self._shares
        for name, value in trial.params.items():
            if not isinstance(value, float) or value.is_integer():  # a value is looked up unless it is a float
                count, shares = self._alike.get((name, value), (0, frozenset()))
                self._alike[name, value] = count + 1, shares | suggested


def _common(before: Sequence[FrozenTrial], now: Sequence[FrozenTrial]) -> int:
    """Return how many trials are at the same place in two lists of a study's finished trials, by number.

    A trial that has finished in between moves all later ones, so that the first difference can be bisected. To compare
    thousands of trials one by one takes more than a millisecond.
    """
    return bisect_left(range(min(len(before), len(now))), True, key=lambda place: before[place] is not now[place])
