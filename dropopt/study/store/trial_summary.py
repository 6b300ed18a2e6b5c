"""A summary of the trials of a study, which is kept up to date without reading all of them each time."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from dropopt.study.store.keys import PREVIOUS
from dropopt.study.store.queries import Counts, count_as, has_result, rank
from dropopt.study.store.retries import is_to_run_again
from dropopt.study.store.trial_budget import uses_budget

#: How many of the best trials are kept.
LEADERS = 5


class TrialSummary:
    """Reads each trial of a study until it has finished, and never again: a finished trial does not change.

    Attributes:
        unfinished: The trials that are running or waiting, by number.
        leaders: The complete trials with the lowest finite values, the best first; at most :data:`LEADERS`.
    """

    def __init__(self) -> None:
        self.unfinished: list[FrozenTrial] = []
        self.leaders: list[FrozenTrial] = []
        self._seen = 0
        self._used = 0
        self._finished: Counter[str] = Counter()
        self._replaced: set[int] = set()
        self._again: dict[int, FrozenTrial] = {}

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Read the trials that are new or were unfinished.

        Args:
            trials: All trials of the study, by number.
        """
        again = [*(trials[trial.number] for trial in self.unfinished), *trials[self._seen :]]
        self._seen = len(trials)
        self.unfinished = []
        for trial in again:
            if (previous := trial.user_attrs.get(PREVIOUS)) is not None:
                self._replaced.add(previous)
            if trial.state.is_finished():
                self._finish(trial)
            else:
                self.unfinished.append(trial)

    def budget_used(self) -> int:
        """Return how much of the budget the trials use; see :func:`~dropopt.study.store.trial_budget.budget_used`."""
        return self._used + sum(map(uses_budget, self.unfinished))

    def budget_spent(self) -> int:
        """Return how much of it those use that have ended."""
        return self._used

    def counts(self) -> Counts:
        """Return the number of trials in each state; see :func:`~dropopt.study.store.queries.count`."""
        found = self._finished.copy()
        found.update(name for trial in self.unfinished if (name := count_as(trial)))
        return Counts(**found)

    def without_replacement(self) -> list[FrozenTrial]:
        """Return the trials that should run again and have not been enqueued yet."""
        for number in self._replaced & self._again.keys():
            del self._again[number]
        return list(self._again.values())

    def _finish(self, trial: FrozenTrial) -> None:
        self._used += uses_budget(trial)
        if name := count_as(trial):
            self._finished[name] += 1
        if is_to_run_again(trial):
            self._again[trial.number] = trial
        if has_result(trial):
            insort(self.leaders, trial, key=rank)
            del self.leaders[LEADERS:]
