"""The parameters of trials as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.mixture import blends_of
from dropopt.study.blend.names import Names, NoBlendError, flatten, suggested_blend

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def encoded(trials: Sequence[FrozenTrial]) -> Array:
    """Encode the parameters of ``trials``: one row for each trial, and one or more columns for each parameter.

    A number is placed within its range, from 0 to 1, on the logarithmic scale if the range has one. A categorical
    parameter has one column for each choice in use. The weights of a blend enter as shares, because only their
    proportions matter. A parameter that a trial does not have, because its conditions do not hold, is in the middle of
    its range, or is none of the choices; the parameters in the conditions tell such trials apart.
    """
    distributions = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    blend = _blend(distributions)
    parts = [_shares(trials, blend)] if blend else []
    parts += [_column(name, trials, distributions[name]) for name in sorted(distributions.keys() - set(flatten(blend)))]
    table = np.concatenate([np.zeros((len(trials), 0)), *parts], axis=1)
    return np.asarray(table[:, np.ptp(table, axis=0) > 0])


def _blend(names: Any) -> Names:
    try:
        return suggested_blend(names)
    except NoBlendError:
        return ()


def _shares(trials: Sequence[FrozenTrial], blend: Names) -> Array:
    shares = blends_of([trial.params for trial in trials], blend)
    return np.nan_to_num(shares, nan=1 / len(blend[0])).reshape(len(trials), -1)


def _column(name: str, trials: Sequence[FrozenTrial], distribution: Any) -> Array:
    """The column of a number, or the columns of the choices of a categorical parameter."""
    values = [trial.params.get(name) for trial in trials]
    if hasattr(distribution, "choices"):
        choices = sorted({repr(trial.params[name]) for trial in trials if name in trial.params})
        present = [repr(value) if name in trial.params else "" for value, trial in zip(values, trials, strict=True)]
        # Divided by sqrt(2), so that two choices are as far apart as the ends of a range.
        return np.array([[(one == choice) / math.sqrt(2) for choice in choices] for one in present])
    scale = math.log if distribution.log else float
    low, span = scale(distribution.low), scale(distribution.high) - scale(distribution.low)
    return np.array([[0.5 if value is None or not span else (scale(value) - low) / span] for value in values])
