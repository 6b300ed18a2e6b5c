"""Features of one factor: functions with mean 0 and variance 1, uncorrelated under the uniform distribution.

A function of one factor is a sum of features. The squares of its coefficients therefore add up to its variance over the
space, whatever the values that the trials happen to have.

- A number has polynomials (of Legendre if its range is continuous).
- A choice has one feature less than choices; all choices are alike a priori.
- A blend has the linear and pair terms of Scheffe's polynomial, uniform on the simplex.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import legvander

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.mixture import scheffe
from dropopt.study.effects.factors import Factor

#: The highest degree of a polynomial of a number, and the highest that takes part in interactions.
DEGREE, DEGREE_TOGETHER = 6, 3
#: How the prior variance of a coefficient falls from one degree to the next: from smooth to rough functions.
ROUGHNESS = (0.1, 0.3, 0.7)
#: Points that stand for the uniform distribution on a range or a simplex.
GRID, DRAWS = 512, 2**13


def features(factor: Factor, values: Array) -> Array:
    """The features (n, m) of a factor at its values; see :class:`~dropopt.study.effects.factors.Points`."""
    if factor.kind == "choice":
        return np.asarray(contrasts(len(factor.choices))[values.astype(int)])
    if factor.kind == "blend":
        terms = np.concatenate(scheffe(values), axis=-1)
        mean, whitening = _blend_whitening(len(factor.names))
        return np.asarray((terms - mean) @ whitening)
    degree = min(DEGREE, factor.levels - 1) if factor.levels else DEGREE
    return np.asarray(legvander(2 * values - 1, degree) @ _polynomials(degree, factor.levels))


def variances(factor: Factor, roughness: float) -> tuple[Array, Array]:
    """Prior variances of the coefficients, which add up to 1: alone, and of those that take part in interactions.

    The latter are the first features of the factor.
    """
    if factor.kind == "choice":
        alike = np.full(len(factor.choices) - 1, 1 / (len(factor.choices) - 1))
        return alike, alike
    if factor.kind == "blend":
        linear = len(factor.names) - 1
        pairs = _blend_whitening(len(factor.names))[1].shape[1] - linear
        both = np.concatenate([np.full(linear, 1 / linear), np.full(pairs, roughness / max(pairs, 1))])
        return both / both.sum(), np.full(linear, 1 / linear)
    degree = min(DEGREE, factor.levels - 1) if factor.levels else DEGREE
    falling = roughness ** np.arange(degree)
    together = falling[:DEGREE_TOGETHER]
    return falling / falling.sum(), together / together.sum()


@lru_cache(maxsize=32)
def contrasts(count: int) -> Array:
    """Features (count, count - 1) of a choice."""
    values, vectors = np.linalg.eigh(np.eye(count) - 1 / count)
    return np.asarray(vectors[:, values > 0.5] * np.sqrt(count))


@lru_cache(maxsize=256)
def _polynomials(degree: int, levels: int) -> Array:
    """The matrix that turns Legendre polynomials of degree 0 to ``degree`` into the features."""
    count = levels or GRID * DEGREE
    grid = (np.arange(count) + 0.5) / count
    triangle = np.linalg.qr(legvander(2 * grid - 1, degree), mode="r")
    signs = np.sign(np.diag(triangle))
    return np.asarray((np.linalg.inv(triangle) * signs * np.sqrt(count))[:, 1:])


@lru_cache(maxsize=16)
def _blend_whitening(methods: int) -> tuple[Array, Array]:
    """The mean of Scheffe's terms, and the matrix that makes them uncorrelated; the linear terms come first."""
    linear, pairs = scheffe(simplex_draws(methods, DRAWS))
    terms = np.concatenate([linear, pairs], axis=1)
    mean = terms.mean(axis=0)
    centred = terms - mean
    basis = np.linalg.svd(centred[:, :methods], full_matrices=False)[2][: methods - 1].T  # the shares add up to 1
    first = centred[:, :methods] @ basis
    spread = np.sqrt((first**2).mean(axis=0))
    first, basis = first / spread, basis / spread
    slope = first.T @ centred[:, methods:] / DRAWS
    rest = centred[:, methods:] - first @ slope
    size, vectors = np.linalg.eigh(rest.T @ rest / DRAWS)
    kept = size > 1e-6 * max(float(size.max(initial=0.0)), 1e-12)
    turn = vectors[:, kept] / np.sqrt(size[kept])
    upper = np.concatenate([basis, -basis @ slope @ turn], axis=1)
    lower = np.concatenate([np.zeros((len(turn), methods - 1)), turn], axis=1)
    return mean, np.concatenate([upper, lower])


def simplex_draws(methods: int, count: int) -> Array:
    """Evenly spread blends (count, methods), uniform on the simplex; ``count`` is a power of two."""
    return to_simplex(cube_draws(methods, count))


def cube_draws(dimensions: int, count: int) -> Array:
    """Evenly spread points (count, dimensions) of the unit cube; ``count`` is a power of two."""
    from scipy.stats import qmc  # takes half a second, which the start of a study does not need

    return np.asarray(qmc.Sobol(dimensions, seed=0).random(count))


def to_simplex(uniform: Array) -> Array:
    """Blends from numbers (n, methods) in [0, 1): exponential variables divided by their sum."""
    raw = -np.log1p(-np.clip(uniform, 0.0, 1 - 1e-12)) + 1e-15
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))
