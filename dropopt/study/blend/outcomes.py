"""Outcomes: the trials that count, and one number for each. Higher is better, whatever the study's direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from dropopt.study.blend.arrays import Array

#: Outcome of a trial that is not complete or whose value is not finite: below every other outcome.
UNUSABLE = -math.inf

#: Outcome of a trial that violates a constraint: below every finite value, above UNUSABLE.
INFEASIBLE = -1e300

#: Values are clipped this many robust standard deviations below the median, and twice as many above it.
TAIL = 3.0

#: Interquartile range of the standard normal distribution.
NORMAL_IQR = 1.349


def counted_trials(trials: Iterable[FrozenTrial], names: Iterable[str]) -> list[FrozenTrial]:
    """COMPLETE and PRUNED trials that suggested any of ``names``, one for each chain of retries.

    Of a chain, the first complete trial counts, or the first pruned one if none is complete. Failed trials carry no
    information about a blend and are left out, as in Optuna's own samplers.
    """
    wanted, complete = frozenset(names), TrialState.COMPLETE
    finished = [trial for trial in trials if trial.state in (complete, TrialState.PRUNED)]
    rows = [trial for trial in finished if not wanted.isdisjoint(trial.params)]
    chosen: dict[int, FrozenTrial] = {}
    for trial in sorted(rows, key=lambda trial: (trial.state != complete, trial.number)):
        chosen.setdefault(trial.system_attrs.get("failed_trial", trial.number), trial)
    return [chosen[root] for root in sorted(chosen)]


def is_infeasible(trial: FrozenTrial) -> bool:
    """Whether a trial violates a constraint."""
    return bool(trial.system_attrs) and any(constraint > 0 for constraint in trial.constraints.values())


def outcomes_of(trials: Sequence[FrozenTrial], maximise: bool) -> Array:
    """Final values (n,), higher is better.

    Returns UNUSABLE for a trial that is not complete or whose value is not finite, and INFEASIBLE for a trial that
    violates a constraint.
    """
    sign = 1.0 if maximise else -1.0

    def outcome(trial: FrozenTrial) -> float:
        values = trial.values
        if trial.state != TrialState.COMPLETE or values is None or not math.isfinite(values[0]):
            return UNUSABLE
        if is_infeasible(trial):
            return INFEASIBLE
        return sign * float(values[0])

    return np.array([outcome(trial) for trial in trials], dtype=float)


def standardised(outcome: Array, score: Array) -> tuple[Array, float]:
    """Outcomes as values v (n,) with mean 0 and standard deviation 1, and the size of one score in outcomes.

    A trial without a feasible finite outcome gets the outcome that corresponds to its score, interpolated between
    the trials that have one. Then both tails are clipped. The size of a score is NaN if it cannot be estimated:

        unit = IQR(outcome) / IQR(score)
    """
    known = outcome > INFEASIBLE
    if known.sum() < 2:
        return score, math.nan
    own = np.sort(outcome[known])
    low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
    spread = (high - low) / NORMAL_IQR or float(own.std()) or 1.0
    value = np.where(known, outcome, np.interp(score, np.sort(score[known]), own))
    value = np.clip((value - middle) / spread, -TAIL, 2 * TAIL)
    ordered = np.sort(value)  # a sum of sorted floats does not depend on the order of trials
    deviation = float(ordered.std())
    score_iqr = np.quantile(score[known], 0.75) - np.quantile(score[known], 0.25)
    unit = float((high - low) / score_iqr) if score_iqr > 0 else math.nan
    return (value - ordered.mean()) / deviation if deviation > 0 else np.zeros(len(value)), unit
