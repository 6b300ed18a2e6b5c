"""A percentile pruner whose cost does not grow with the number of trials."""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from optuna.pruners import PercentilePruner
from optuna.pruners._percentile import _get_best_intermediate_result_over_steps
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class QuickPercentilePruner(PercentilePruner):
    """Decides like :class:`optuna.pruners.PercentilePruner`, which reads all complete trials at each report.

    The values of the complete trials are kept in order, by step. ``interval_steps`` and ``n_min_trials`` are 1.

    Args:
        percentile: The percentage of the complete trials that a trial must be among, from 0 to 100; 50 for the median.
        n_startup_trials: Number of complete trials before a trial is pruned.
        n_warmup_steps: Number of steps of a trial before it is pruned.
    """

    def __init__(self, percentile: float, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(percentile, n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)
        self._study: tuple[object, int] | None = None  # its storage and its id there
        self._seen: set[int] = set()
        self._values: dict[int, array[float]] = {}  # of the complete trials, by step, in ascending order

    def prune(self, study: Any, trial: FrozenTrial) -> bool:
        """Whether ``trial`` should be pruned at the last step that it reported."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        step = trial.last_step
        if not complete or len(complete) < self._n_startup_trials or step is None or step < self._n_warmup_steps:
            return False
        reached = _get_best_intermediate_result_over_steps(trial, study.direction)
        if math.isnan(reached):
            return True
        limit = self._percentile_at(study, complete, step)
        return reached < limit if study.direction == StudyDirection.MAXIMIZE else reached > limit

    def _percentile_at(self, study: Study, complete: Sequence[FrozenTrial], step: int) -> float:
        """Return the percentile of the complete trials at ``step``; NaN if there are none."""
        if (study._storage, study._study_id) != self._study:
            self._study, self._seen, self._values = (study._storage, study._study_id), set(), {}
        self._learn(complete)
        kept = 100 - self._percentile if study.direction == StudyDirection.MAXIMIZE else self._percentile
        return _percentile(self._values.get(step, array("d")), kept)

    def _learn(self, complete: Sequence[FrozenTrial]) -> None:
        """Add the values of the trials that have completed since the last call; most of them are the latest ones."""
        new: dict[int, list[float]] = defaultdict(list)
        for trial in reversed(complete):
            if len(self._seen) == len(complete):
                break
            if trial.number not in self._seen:
                self._seen.add(trial.number)
                for step, value in trial.intermediate_values.items():
                    if not math.isnan(value):
                        new[step].append(value)
        for step, values in new.items():
            known = self._values.setdefault(step, array("d"))
            if len(values) == 1:
                insort(known, values[0])
            else:
                self._values[step] = array("d", sorted([*known, *values]))


def _percentile(values: Sequence[float], percentage: float) -> float:
    """Return what :func:`numpy.percentile` returns, to the last bit, for ``values`` in order; NaN without values."""
    if not values:
        return math.nan
    position = (len(values) - 1) * (percentage / 100)
    below = math.floor(position)
    part = position - below
    low, high = values[below], values[min(below + 1, len(values) - 1)]
    gap = high - low
    return high - gap * (1 - part) if part >= 0.5 else low + gap * part
