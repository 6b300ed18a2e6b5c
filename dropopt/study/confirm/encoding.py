"""The parameters of trials as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.gather import names_in
from dropopt.study.blend.mixture import blends_of
from dropopt.study.blend.names import Names, NoBlendError, flatten


def encoded(trials: Sequence[FrozenTrial]) -> Array:
    """Encode the parameters of ``trials``: one row for each trial, and one or more columns for each parameter.

    A number is placed within its range, from 0 to 1, on the logarithmic scale if the range has one. A categorical
    parameter has one column for each choice in use. The weights of a blend enter as shares, because only their
    proportions matter. A parameter that a trial does not have, because its conditions do not hold, is in the middle of
    its range, or is none of the choices; the parameters in the conditions tell such trials apart.
    """
    distributions = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    blend = _blend(trials)
    parts = [_shares(trials, blend)] if blend else []
    parts += [_column(name, trials, distributions[name]) for name in sorted(distributions.keys() - set(flatten(blend)))]
    table = np.concatenate([np.zeros((len(trials), 0)), *parts], axis=1)
    return np.asarray(table[:, np.ptp(table, axis=0) > 0])


def _blend(trials: Sequence[FrozenTrial]) -> Names:
    try:
        return names_in(trials)
    except NoBlendError:
        return ()


def _shares(trials: Sequence[FrozenTrial], blend: Names) -> Array:
    shares = blends_of([trial.params for trial in trials], blend)
    return np.nan_to_num(shares, nan=1 / len(blend[0])).reshape(len(trials), -1)


def _column(name: str, trials: Sequence[FrozenTrial], distribution: Any) -> Array:
    """The column of a number, or the columns of the choices of a categorical parameter."""
    is_choice = hasattr(distribution, "choices")
    # A trial of another program may have a word in place of a number, or the reverse.
    kinds = [hasattr(trial.distributions[name], "choices") if name in trial.params else None for trial in trials]
    values = [trial.params[name] if kind is is_choice else None for trial, kind in zip(trials, kinds, strict=True)]
    if is_choice:
        present = [repr(value) if kind else "" for value, kind in zip(values, kinds, strict=True)]
        choices = sorted(set(present) - {""})
        # Divided by sqrt(2), so that two choices are as far apart as the ends of a range.
        return np.array([[(one == choice) / math.sqrt(2) for choice in choices] for one in present])
    scale = math.log if distribution.log else float
    low, span = scale(distribution.low), scale(distribution.high) - scale(distribution.low)
    return np.array([[0.5 if value is None or not span else (scale(value) - low) / span] for value in values])
