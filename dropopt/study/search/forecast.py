"""A pruner that compares forecasts of the final value instead of current values.

Current values can mislead: regularised networks learn slowly at first, and under a one-cycle learning rate the ranks
of trials in the first third of the epochs can even be reversed at the end.
"""

from __future__ import annotations

import math

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import stdtr

from dropopt.config import ConfigError
from dropopt.study.blend.arrays import Array

#: The candidate strengths of regularisation for a standardised predictor, from almost none to almost total shrinkage.
_STRENGTHS = np.logspace(-1, 3, 9)

#: Smallest standard error of a forecast, relative to the range of the final values.
_SMALLEST_ERROR = 1e-12


class ForecastPruner(BasePruner):
    """Prunes a trial whose probability of beating the best complete trial is below ``chance``.

    The final value of a trial is predicted from its value at the current step, by a ridge regression on the complete
    trials that reported at the same step. The error of the prediction is estimated by leave-one-out cross-validation.
    Where values at a step predict the final value well, trials that are behind are pruned early. Where they predict
    nothing, only the number of complete trials counts: the more there are, the less likely an average trial beats
    them all.

    A trial with the best value at its step is never pruned, and one whose value is not finite is always pruned. If all
    values are positive, as losses are, their logarithms are compared. The pruner is stateless and supports both
    directions.

    Args:
        n_startup_trials: Number of complete trials with finite values at a step before trials are pruned there, at
            least 3.
        chance: Smallest probability with which a trial continues, in (0, 1). A higher value prunes more.
        n_warmup_steps: Steps of a trial before which it is not pruned, at least 0.

    Raises:
        ConfigError: An argument is out of range.

    Source:
        The rule follows Golovin et al. (2017), "Google Vizier: A Service for Black-Box Optimization", and Domhan et
        al. (2015), "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation of
        Learning Curves".

    Example:
        >>> import optuna
        >>> from dropopt.study import ForecastPruner
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", 0.0, 1.0)
        ...     for step in range(5):
        ...         trial.report(x + 1 / (step + 1), step)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return x
        >>> sampler = optuna.samplers.RandomSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler, pruner=ForecastPruner(n_startup_trials=4, chance=0.2))
        >>> study.optimize(objective, n_trials=20)
        >>> any(trial.state.name == "PRUNED" for trial in study.trials)
        True
        >>> study.best_trial.value == min(trial.params["x"] for trial in study.trials)
        True
    """

    def __init__(self, *, n_startup_trials: int = 4, chance: float = 0.1, n_warmup_steps: int = 0) -> None:
        if n_startup_trials < 3:
            raise ConfigError(f"n_startup_trials must be at least 3, got {n_startup_trials}")
        if not 0 < chance < 1:
            raise ConfigError(f"chance must be in (0, 1), got {chance}")
        if n_warmup_steps < 0:
            raise ConfigError(f"n_warmup_steps must be at least 0, got {n_warmup_steps}")
        self._n_startup_trials = n_startup_trials
        self._chance = chance
        self._n_warmup_steps = n_warmup_steps

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether ``trial`` should be pruned at the last step that it reported."""
        step = trial.last_step
        if step is None:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        if step < self._n_warmup_steps:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        pairs = [(other.intermediate_values.get(step, math.nan), other.values[0]) for other in complete]
        known = np.array([pair for pair in pairs if all(map(math.isfinite, pair))])
        if len(known) < self._n_startup_trials:
            return False
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        now = np.append(sign * known[:, 0], sign * trial.intermediate_values[step])
        final = sign * known[:, 1]
        if now[-1] <= now[:-1].min():
            return False
        logarithms = min(now.min(), final.min()) > 0
        now, final = _scaled(now, logarithms), _scaled(final, logarithms)
        return chance_to_win(now[-1], now[:-1], final) < self._chance


def _scaled(values: Array, logarithms: bool) -> Array:
    """Return values, or their logarithms, scaled to [0, 1]; zeros if all are equal.

    Finite values neither overflow nor lose digits: differences are formed first, also between logarithms.
    """
    if logarithms:
        lowest = values.min()
        near = values / 2 <= lowest
        above = np.log(values) - np.log(lowest)
        above[near] = np.log1p((values[near] - lowest) / lowest)
    else:
        values = np.ldexp(values, -np.frexp(np.abs(values).max())[1])  # exact, and at most 1
        above = values - values.min()
    result: Array = above / (above.max() or 1.0)
    return result


def chance_to_win(here: float, reached: Array, final: Array) -> float:
    """Return the probability that a trial ends with the lowest value of all.

        P = F((min(final) - forecast) / error),   F: Student's t with n - 1 degrees of freedom
        error^2 = (n + 1) / n * mean squared leave-one-out error

    Args:
        here: The trial's value at the step.
        reached: (n,) the values of the complete trials at the same step.
        final: (n,) their final values.
    """
    from sklearn.linear_model import RidgeCV  # slow to import

    scale = float(reached.std()) or 1.0
    model = RidgeCV(alphas=_STRENGTHS).fit((reached[:, None] - reached.mean()) / scale, final)
    forecast = float(model.predict([[(here - reached.mean()) / scale]])[0])
    count = len(final)
    error = math.sqrt(max(-float(model.best_score_), 0.0) * (count + 1) / count)  # best_score_ is minus the error
    distance = (final.min() - forecast) / max(error, _SMALLEST_ERROR)
    return float(stdtr(count - 1, distance))
