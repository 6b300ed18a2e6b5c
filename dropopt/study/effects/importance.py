"""How much each factor matters: Sobol indices over the whole space, with intervals.

The share of the variance of the response, over uniform draws from the space, that is due to a factor alone (first
order) and together with all others (total). They follow exactly from the coefficients of the model, whose parts are
uncorrelated. Trials that a sampler concentrated in one corner of the space therefore do not distort them, as they
distort shares that are computed from the trials themselves.

A factor that is not used in a configuration has no effect there; a choice that switches it on or off shares its effect.

Reference: I. M. Sobol, "Global Sensitivity Indices for Nonlinear Mathematical Models and Their Monte Carlo Estimates",
Mathematics and Computers in Simulation 55, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.model import Model

#: Variances, relative to that of the noise, below which a function is flat.
FLAT = 1e-9


@dataclass(frozen=True)
class Importance:
    """The shares of the variance that are due to a factor: alone, and together with the others.

    Attributes:
        first: The share that is due to it alone.
        total: The share in which it has a part.
        noisy: The share of the variance of single trainings in which it has a part: their noise counts too.
    """

    first: Estimate
    total: Estimate
    noisy: Estimate


def importances(model: Model) -> tuple[Importance, ...]:
    """The importance of each factor."""
    first, total = indices(model)
    noisy = total * explained(model)
    shares = zip(first, total, noisy, strict=True)
    return tuple(Importance(*(Estimate.of(draws) for draws in each)) for each in shares)


def indices(model: Model) -> tuple[Array, Array]:
    """Draws (factors, draws) of the first-order and total indices."""
    count, draws = len(model.design.factors), model.draws.coefficients.shape[1]
    alone, together = np.zeros((count, draws)), np.zeros((count, draws))
    for part in model.design.parts:
        size = (model.draws.coefficients[part.start : part.stop] ** 2).sum(axis=0)
        variance = part.used * size
        if len(part.factors) == 1:
            alone[part.factors[0]] += part.used * variance
        for d in part.factors:
            together[d] += variance
        for d, chance in part.switches:
            if d not in part.factors:
                together[d] += (1 - chance) * variance
    whole = np.maximum(_variance(model), FLAT * model.draws.noise**2)
    return alone / whole, together / whole


def explained(model: Model) -> Array:
    """Draws (draws,) of the share of the variance over the space that is not the noise between trainings."""
    variance = _variance(model)
    return variance / (variance + model.draws.noise**2)


def _variance(model: Model) -> Array:
    """Draws (draws,) of the variance of the response over the space, without noise."""
    squares = model.draws.coefficients**2
    return np.asarray(sum(part.used * squares[part.start : part.stop].sum(axis=0) for part in model.design.parts))
