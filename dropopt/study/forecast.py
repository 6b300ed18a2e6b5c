"""A pruner that asks where a trial will end, not where it stands.

Early ranks can mislead: regularised networks start slowly, and under a one-cycle rate the first third of the epochs
may even rank trials the wrong way round. So what an epoch tells is learned from the trials that completed: a Bayesian
ridge regression of their final values on their values at the same step and on their parameters. A trial stops once it
is unlikely to beat the best. A slow start alone stops nothing; but what promises no more than an average trial stops
too, and sooner the more have completed, however little an epoch tells.

The idea is that of Domhan et al., 2015, "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks
by Extrapolation of Learning Curves", and Baker et al., 2018, "Accelerating Neural Architecture Search using
Performance Prediction", whose regression on values and parameters this is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t as student

from dropopt.config import ConfigError
from dropopt.study.evidence import row


class ForecastPruner(BasePruner):
    """Stops a trial whose forecast beats the best trial with a probability below ``chance``.

    Args:
        n_startup_trials: completed trials that it takes to forecast, at least 3.
        chance: in (0, 1); higher stops more. On digits 0.1 saved 57, 0.2 66 and 0.25 71 percent of the epochs.

    It keeps no state, minimises or maximises, and learns from trials that reported at the same step, with finite
    values. A value that is not finite is pruned. Values that are all positive, as losses are, are compared as logs.
    """

    def __init__(self, *, n_startup_trials: int = 4, chance: float = 0.25) -> None:
        if n_startup_trials < 3:
            raise ConfigError(f"n_startup_trials must be at least 3, got {n_startup_trials}")
        if not 0 < chance < 1:
            raise ConfigError(f"chance must be in (0, 1), got {chance}")
        self._n_startup_trials = n_startup_trials
        self._chance = chance

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether ``trial`` should stop at its last reported step."""
        step = trial.last_step
        if step is None:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = [
            one
            for one in completed
            if math.isfinite(one.intermediate_values.get(step, math.nan)) and math.isfinite(one.values[0])
        ]
        if len(known) < self._n_startup_trials:
            return False
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        final = sign * np.array([one.values[0] for one in known])
        reached = sign * np.array([one.intermediate_values[step] for one in [*known, trial]])
        if min(final.min(), reached.min()) > 0:
            final, reached = np.log(final), np.log(reached)
        return chance_to_win([*known, trial], reached, final) < self._chance


def chance_to_win(
    trials: list[FrozenTrial],  # n + 1, the last one is asked about
    reached: np.ndarray[Any, Any],  # (n + 1,) what they had reported at its last step
    final: np.ndarray[Any, Any],  # (n,) where the others ended
) -> float:
    """The probability that the last of ``trials`` ends below all others, lower being better."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import BayesianRidge
    from sklearn.preprocessing import StandardScaler

    rows: list[dict[str, float]] = [{"reached": float(value)} for value in reached]
    for cells, one in zip(rows, trials, strict=True):
        for name, value in one.params.items():
            cells |= {f"param {column}": cell for column, cell in row(name, value, one.distributions[name]).items()}
    table = DictVectorizer(sparse=False).fit_transform(rows)
    scale = StandardScaler().fit(table[:-1])
    model = BayesianRidge().fit(scale.transform(table[:-1]), final)
    mean, deviation = model.predict(scale.transform(table[-1:]), return_std=True)
    distance = (final.min() - mean[0]) / max(float(deviation[0]), 1e-12)
    return float(student.cdf(distance, len(final) - 1))  # a wide tail while few have ended
