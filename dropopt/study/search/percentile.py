"""A percentile pruner whose cost does not grow with the number of trials."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.pruners import PercentilePruner
from optuna.pruners._percentile import _get_best_intermediate_result_over_steps
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class QuickPercentilePruner(PercentilePruner):
    """Decides like :class:`optuna.pruners.PercentilePruner`, which reads all complete trials at each report.

    The percentile at each step is kept until another trial completes. ``interval_steps`` and ``n_min_trials`` are 1.

    Args:
        percentile: The percentage of the complete trials that a trial must be among, from 0 to 100; 50 for the median.
        n_startup_trials: Number of complete trials before a trial is pruned.
        n_warmup_steps: Number of steps of a trial before it is pruned.
    """

    def __init__(self, percentile: float, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(percentile, n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)
        self._study: int | None = None
        self._seen: set[int] = set()
        self._values: dict[int, array[float]] = {}  # of the complete trials, by step
        self._percentiles: dict[int, float] = {}  # by step

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
        if study._study_id != self._study:
            self._study, self._seen, self._values, self._percentiles = study._study_id, set(), {}, {}
        if len(complete) != len(self._seen):
            for other in complete:
                if other.number not in self._seen:
                    self._seen.add(other.number)
                    for at, value in other.intermediate_values.items():
                        self._values.setdefault(at, array("d")).append(value)
            self._percentiles = {}
        if step not in self._percentiles:
            kept = 100 - self._percentile if study.direction == StudyDirection.MAXIMIZE else self._percentile
            values = np.array(self._values.get(step, array("d")))
            self._percentiles[step] = math.nan if np.isnan(values).all() else float(np.nanpercentile(values, kept))
        return self._percentiles[step]
