"""The fitted model of a study: from trials to draws from the posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from dropopt.study.blend.arrays import Array, Indices
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.blend.threads import one_thread
from dropopt.study.effects.design import Design, Kernels
from dropopt.study.effects.factors import Points, factors_of, points_of
from dropopt.study.effects.posterior import BURN_IN, KEPT, TRIAL_SWEEPS, Chain, Draws, coefficients
from dropopt.study.effects.response import Response, responses

#: Trials from which the settings are learned, and from which the effects are; a larger study is thinned at random.
CHAIN_ROWS, ROWS = 160, 700
#: Log odds in favour of the logarithm of the loss, which gives effects in percent.
RATIO_BONUS = 8.0
#: Fewer trials with a result are not analysed.
FEWEST = 5


@dataclass(frozen=True)
class Model:
    """The posterior of the response as a function of the configuration.

    Attributes:
        design: The factors and the parts of the function.
        points: The configurations of the trials.
        response: The responses of the trials.
        draws: Draws from the posterior.
        trials: Number of trials that count.
        complete: Number of those that are complete.
    """

    design: Design
    points: Points
    response: Response
    draws: Draws
    trials: int
    complete: int


def fit(
    trials: Sequence[FrozenTrial], maximise: bool, target: Callable[[FrozenTrial], float] | None = None
) -> Model | None:
    """Fit the model to finished trials; a pure function of their set.

    Returns:
        The model, or None if nothing was varied or fewer than FEWEST trials have a result.
    """
    rows = counted_trials(trials, {name for trial in trials for name in trial.params})
    if target is not None:
        rows = [trial for trial in rows if trial.state == TrialState.COMPLETE]
    complete = sum(trial.state == TrialState.COMPLETE for trial in rows)
    factors = factors_of(rows)
    options = responses(rows, maximise, target) if factors and complete >= FEWEST else []
    if not options:
        return None
    points, design = points_of(rows, factors), Design(factors)
    order = _by_content(points, options[-1])
    points, options = points.take(order), [_taken(option, order) for option in options]
    with one_thread():
        response, draws = _sample(design, points, options)
    return Model(design, points, response, draws, len(rows), complete)


def _sample(design: Design, points: Points, options: Sequence[Response]) -> tuple[Response, Draws]:
    response = options[_scale(design, points, options)]
    rng = np.random.default_rng(0)
    rows = _thinned(np.arange(len(points)), CHAIN_ROWS, rng)
    chain = _chain(design, points, response, rows)
    used = _thinned(np.arange(len(points)), ROWS, rng)
    own, value, weight = points.take(used), response.value[used], response.weight[used]
    for _ in range(BURN_IN):
        chain.sweep()
    found = []
    for _ in range(KEPT):
        chain.sweep()
        found.append(coefficients(design, own, value, weight, chain.settings, rng))
    return response, Draws(
        np.concatenate([one.coefficients for one in found], axis=1), np.concatenate([one.noise for one in found])
    )


def _scale(design: Design, points: Points, options: Sequence[Response]) -> int:
    """The position of the scale on which the model explains the complete trials best."""
    if len(options) == 1:
        return 0
    rows = _thinned(np.flatnonzero(options[0].weight == 1.0), CHAIN_ROWS, np.random.default_rng(0))
    fits = []
    for option in options:
        chain, logs = _chain(design, points, option, rows), []
        for _ in range(TRIAL_SWEEPS):
            chain.sweep()
            logs.append(chain.log_density)
        fits.append(np.mean(logs[TRIAL_SWEEPS // 2 :]) + option.log_slope[rows].sum() + RATIO_BONUS * option.ratio)
    return int(np.argmax(fits))


def _chain(design: Design, points: Points, response: Response, rows: Indices) -> Chain:
    kernels = Kernels(design, points.take(rows), response.weight[rows])
    return Chain(kernels, response.value[rows], float(len(rows)), np.random.default_rng(1))


def _thinned(rows: Indices, limit: int, rng: np.random.Generator) -> Indices:
    """The rows, or ``limit`` of them at random. A choice by outcome would distort the effects."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, size=limit, replace=False))


def _by_content(points: Points, response: Response) -> Indices:
    """An order of the trials that depends on what they are, not on when they ran."""
    used = points.active
    keys: list[Array] = [response.value, response.weight]
    for index, values in enumerate(points.values):
        columns = values[:, None] if values.ndim == 1 else values
        keys += list(np.where(used[:, [index]], columns, -1.0).T)
    return np.asarray(np.lexsort(keys), dtype=np.int64)


def _taken(response: Response, rows: Indices) -> Response:
    own = {name: getattr(response, name)[rows] for name in ("value", "weight", "log_slope")}
    return replace(response, **own)
