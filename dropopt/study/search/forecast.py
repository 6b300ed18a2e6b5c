"""A pruner that asks where a trial will end, not where it stands.

Early ranks can mislead: regularised networks start slowly, and under a one-cycle rate the first third of the epochs
may even rank trials the wrong way round. So what a step tells of the end is learned from the trials that completed, by
a ridge regression of their final values on their values at that step, and how little it tells from its errors in
leaving one out. A trial stops once it is unlikely to beat the best. One that is ahead of them all goes on; so does a
slow start while slow starts may end well; what promises no more than an average trial stops, and sooner the more have
completed.

The rule is the one of Golovin et al., 2017, "Google Vizier: A Service for Black-Box Optimization", after Domhan et al.,
2015, "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation of Learning Curves".
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

Array = np.ndarray[Any, Any]

#: Strengths of the ridge that are tried, for standardised values: from hardly any to nothing but the mean.
_RIDGES = np.logspace(-1, 3, 9)


class ForecastPruner(BasePruner):
    """Stops a trial whose forecast beats the best trial with a probability below ``chance``.

    Args:
        n_startup_trials: completed trials that it takes to forecast, at least 3.
        chance: in (0, 1); higher stops more.

    It keeps no state, minimises or maximises, and learns from trials that reported at the same step, with finite
    values. A value that is not finite is pruned. Values that are all positive, as losses are, are compared as logs.
    """

    def __init__(self, *, n_startup_trials: int = 4, chance: float = 0.2) -> None:
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
        pairs = [(one.intermediate_values.get(step, math.nan), one.values[0]) for one in completed]
        known = np.array([pair for pair in pairs if all(map(math.isfinite, pair))])
        if len(known) < self._n_startup_trials:
            return False
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        here, reached, final = sign * trial.intermediate_values[step], sign * known[:, 0], sign * known[:, 1]
        if here <= reached.min():
            return False
        if min(here, reached.min(), final.min()) > 0:
            here, reached, final = math.log(here), np.log(reached), np.log(final)
        return chance_to_win(here, reached, final) < self._chance


def chance_to_win(here: float, reached: Array, final: Array) -> float:
    """The probability that a trial that is ``here`` ends below all of ``final``, lower being better.

    The others, (n,), had ``reached`` their values at the same step.
    """
    from sklearn.linear_model import RidgeCV

    scale = float(reached.std()) or 1.0
    model = RidgeCV(alphas=_RIDGES).fit((reached[:, None] - reached.mean()) / scale, final)
    expected = float(model.predict([[(here - reached.mean()) / scale]])[0])
    count = len(final)
    error = math.sqrt(max(-float(model.best_score_), 0.0) * (count + 1) / count)  # of leaving one out
    distance = (final.min() - expected) / max(error, 1e-12)
    return float(student.cdf(distance, count - 1))  # a wide tail while few have ended
