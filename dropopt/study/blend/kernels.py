"""Kernels: covariances between blends and covariates, and between the rows of a table.

With w a blend, c covariates, and the variances of a :class:`Kernel` in units of the noise variance,

    k((w, c), (w', c')) = LEVEL + polynomial k_poly(w, w') + matern k_matern(w, w') + covariates k_add(c, c')
                          + interaction k_matern(w, w') k_add(c, c')

Blends may have several stages. The function of a blend is then a mean over stages of two functions: one that is common
to all stages, and one of the stage's own. With k_st a kernel between stage s of one blend and stage t of another, and f
the fraction STAGE_FRACTION, the kernel of this mean is

    k(w, w') = (1 - f) mean_st k_st + f / S^2 sum_s k_ss

Reference: Rasmussen and Williams (2006), chapter 4; see the package docstring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.mixture import STAGE_FRACTION, scheffe

#: Prior variance of the mean level, in units of the noise variance.
LEVEL = 10.0
#: Length scale of k_add, in standard deviations of a covariate.
COVARIATE_LENGTH = 1.5


@dataclass(frozen=True)
class Kernel:
    """Variances of the parts, in units of the noise variance, and the length scale of the Matern part."""

    polynomial: float
    matern: float
    length: float
    covariates: float = 1.0
    interaction: float = 0.0

    @property
    def signal(self) -> float:
        """Variance of the blend, without its interaction with covariates."""
        return self.polynomial + self.matern

    @property
    def name(self) -> str:
        """The name that is written on trials."""
        return "gp" if self.matern or self.interaction else "quadratic"

    def scaled(self, signal: float) -> Kernel:
        """The same proportions with ``signal`` as the variance of the blend."""
        factor = signal / self.signal
        return replace(self, polynomial=self.polynomial * factor, matern=self.matern * factor)


def polynomial_features(shares: Array) -> Array:
    """Features x (..., M + M(M-1)/2) with k_poly(w, w') = x . x', half of whose variance is linear."""
    linear, pairs = scheffe(shares)
    m = shares.shape[-1]
    return np.concatenate([linear / math.sqrt(2 * m), pairs / math.sqrt(m * (m - 1))], axis=-1)


def matern(distance: Array, length: float) -> Array:
    """Matern kernel with nu = 5/2: (1 + r + r^2 / 3) exp(-r), r = sqrt(5) distance / length."""
    r = math.sqrt(5) / length * distance
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def additive(a: Array, b: Array) -> Array:
    """k_add (n, m): the mean over covariates of exp(-(a_d - b_d)^2 / (2 COVARIATE_LENGTH^2)); 0 without covariates."""
    total = np.zeros((len(a), len(b)))
    if not a.shape[1]:
        return total
    for column in range(a.shape[1]):
        gap = (a[:, column, None] - b[None, :, column]) / COVARIATE_LENGTH
        total += np.exp(-0.5 * gap * gap)
    return np.asarray(total / a.shape[1])


class Rows:
    """The rows of a table as kernels read them; parts that kernels share are computed once."""

    def __init__(self, table: Evidence) -> None:
        self.blend = table.blend.transpose(1, 0, 2)  # (S, n, M)
        self.covariates = table.standardised  # (n, D)
        self.noise = 1.0 / table.weight  # (n,) in units of the noise variance
        self.amount = float(table.weight.sum())  # effective number of rows
        self._features = polynomial_features(self.blend)
        self._distances = _distances(self.blend, self.blend)
        self._materns: dict[float, Array] = {}

    def __len__(self) -> int:
        return int(self.blend.shape[1])

    def covariance(self, kernel: Kernel) -> Array:
        """G (n, n), in units of the noise variance."""
        total = np.full((len(self), len(self)), LEVEL)
        if kernel.polynomial:
            total += kernel.polynomial * self._polynomial
        if kernel.matern:
            total += kernel.matern * self._matern(kernel.length)
        if kernel.covariates:
            total += kernel.covariates * self._additive
        if kernel.interaction:
            total += kernel.interaction * self._matern(kernel.length) * self._additive
        total.flat[:: len(total) + 1] += self.noise
        return total

    def covariance_with(self, kernel: Kernel, shares: Array, stage: int, similarity: Array) -> Array:
        """Covariances (B, n) of candidates (B, M) at one stage with the rows.

        Only the parts that depend on the candidate are included. ``similarity`` (n,) is k_add between the
        candidates' covariates and those of the rows.
        """
        total = np.zeros((len(shares), len(self)))
        if kernel.polynomial:
            product = polynomial_features(shares) @ self._features.transpose(0, 2, 1)
            total += kernel.polynomial * _pooled_at(product, stage)
        if kernel.matern or kernel.interaction:
            rough = _pooled_at(matern(_distances(shares[None], self.blend)[0], kernel.length), stage)
            total += rough * (kernel.matern + kernel.interaction * similarity)
        return total

    def similarity(self, covariates: Array) -> Array:
        """k_add (n,) between one row of covariates (D,) and those of the table."""
        return np.asarray(additive(covariates[None], self.covariates)[0])

    @cached_property
    def _polynomial(self) -> Array:
        return _pooled(self._features[:, None] @ self._features[None].transpose(0, 1, 3, 2))

    @cached_property
    def _additive(self) -> Array:
        return additive(self.covariates, self.covariates)

    def _matern(self, length: float) -> Array:
        if length not in self._materns:
            self._materns[length] = _pooled(matern(self._distances, length))
        return self._materns[length]


def _distances(a: Array, b: Array) -> Array:
    """Euclidean distances (S, T, n, m) between the stages of blends (S, n, M) and (T, m, M)."""
    flat = cdist(a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2]))
    return np.ascontiguousarray(flat.reshape(*a.shape[:2], *b.shape[:2]).transpose(0, 2, 1, 3))


def _pooled(kernel: Array) -> Array:
    """The kernel of blends (n, m) from kernels between stages (S, S, n, m); see the module docstring."""
    stages = len(kernel)
    if stages == 1:
        return np.asarray(kernel[0, 0])
    own = np.einsum("ssnm->nm", kernel) / stages**2
    return np.asarray((1 - STAGE_FRACTION) * kernel.mean(axis=(0, 1)) + STAGE_FRACTION * own)


def _pooled_at(kernel: Array, stage: int) -> Array:
    """The part (n, m) due to one stage of a blend, from kernels (S, n, m) between it and the stages of the rows."""
    stages = len(kernel)
    return np.asarray(((1 - STAGE_FRACTION) * kernel.sum(axis=0) + STAGE_FRACTION * kernel[stage]) / stages**2)
