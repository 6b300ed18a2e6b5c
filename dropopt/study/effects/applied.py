"""The effect of the applied drop rate, which the settings of the engine determine together.

``r0`` is only one of the settings that decide how much is dropped: the methods, ``alpha`` and the importances change
it. Each trial therefore records its applied rate, the mean over places and epochs. The same model is fitted once more,
with this rate in place of ``r0`` or ``p``; all other parameters stay. It then says which applied rate is best.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from dropopt.study.effects.importance import importances
from dropopt.study.effects.model import fit
from dropopt.study.effects.profiles import profiles
from dropopt.study.effects.questions import RATES
from dropopt.study.effects.words import FactorEffect
from dropopt.study.store.keys import APPLIED

#: The smallest part of the trials that must have recorded their rates. A pruned trial of an earlier version has not.
SMALLEST_PART = 0.8


def applied_effect(trials: Sequence[FrozenTrial], maximise: bool) -> FactorEffect | None:
    """Return the effect of the applied rate; None if no rate was searched, or too few trials recorded theirs.

    Args:
        trials: Complete and pruned trials.
        maximise: Whether a higher value is better.
    """
    searched = {name for trial in trials for name in trial.params if name in RATES}
    known = [trial for trial in trials if _rate(trial) is not None]
    highest = max((_rate(trial) or 0.0 for trial in known), default=0.0)
    if not searched or highest <= 0 or len(known) < SMALLEST_PART * len(trials):
        return None
    model = fit([_with_rate(trial, searched, highest) for trial in known], maximise)
    names = [] if model is None else [factor.name for factor in model.design.factors]
    if model is None or APPLIED not in names:
        return None
    index = names.index(APPLIED)
    (profile,) = profiles(model, {}, only=(index,))
    return FactorEffect(model.design.factors[index], importances(model)[index], profile)


def _rate(trial: FrozenTrial) -> float | None:
    value = trial.user_attrs.get(APPLIED)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _with_rate(trial: FrozenTrial, searched: set[str], highest: float) -> FrozenTrial:
    """A copy of the trial with its applied rate as a parameter in place of those that were ``searched``."""
    found = copy.copy(trial)
    params = {name: value for name, value in trial.params.items() if name not in searched}
    kept = {name: trial.distributions[name] for name in params}
    found.params = {**params, APPLIED: _rate(trial)}
    found.distributions = {**kept, APPLIED: FloatDistribution(0.0, highest)}
    return found
