"""Mixtures: shares on a simplex, and the terms of Scheffe's quadratic polynomial.

References: Scheffe (1958) and Cornell (2002); see the package docstring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.names import Names, flatten

#: Fraction of the blend's prior variance that is independent between stages; the rest is common to all stages.
STAGE_FRACTION = 0.25


def normalised(weights: Array) -> Array:
    """Weights (..., M) as shares: divided by their sum, or 1/M each if all are zero."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1 / weights.shape[-1])


def is_weight(value: object) -> bool:
    """Whether the value of a parameter is a number, and not a word or None."""
    return isinstance(value, int | float)


def blends_of(params: Sequence[Mapping[str, Any]], names: Names) -> Array:
    """The blends (n, S, M) of parameters.

    An absent name has the share 0. A stage is NaN if its weights are all zero, or one is negative, not finite or no
    number.
    """
    flat = flatten(names)
    cells_of = itemgetter(*flat)  # a loop over names in Python would take milliseconds at 1,000 trials
    try:
        cells = [cells_of(row) for row in params]
    except KeyError:
        cells = [tuple(row.get(name, 0.0) for name in flat) for row in params]
    try:
        weights = np.array(cells, dtype=float)
    except ValueError:  # words, in trials of other programs
        weights = np.array([[cell if is_weight(cell) else math.nan for cell in row] for row in cells])
    weights = weights.reshape(len(params), len(names), len(names[0]))
    total = weights.sum(axis=2, keepdims=True)
    valid = (total > 0) & (weights >= 0).all(axis=2, keepdims=True) & np.isfinite(total)
    return np.where(valid, weights / np.where(valid, total, 1.0), math.nan)


def scheffe(shares: Array) -> tuple[Array, Array]:
    """Linear terms w_m (..., M) and pair terms w_m w_k, m < k (..., M(M-1)/2) of Scheffe's polynomial.

    Each term is standardised to mean 0 and standard deviation 1 under the uniform distribution on the simplex,
    Dirichlet(1, ..., 1).
    """
    m = shares.shape[-1]
    first, second = np.triu_indices(m, 1)
    # E[w_i] = 1 / M;  Var[w_i] = (M - 1) / (M^2 (M + 1))
    linear = (shares - 1 / m) / math.sqrt((m - 1) / (m * m * (m + 1)))
    # E[w_i w_j] = 1 / (M (M + 1));  E[w_i^2 w_j^2] = 4 / (M (M + 1) (M + 2) (M + 3))
    mean = 1 / (m * (m + 1))
    deviation = math.sqrt(max(4 / (m * (m + 1) * (m + 2) * (m + 3)) - mean**2, 1e-12))
    return linear, (shares[..., first] * shares[..., second] - mean) / deviation
