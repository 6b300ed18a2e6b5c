"""Paths: functions of blends drawn from the posterior of a Gaussian process by pathwise conditioning.

Matheron's rule turns a draw f from the prior into a draw from the posterior (Wilson et al. 2020):

    (f | y)(w) = f(w) + k(w, X) G^-1 (y - f(X) - e),   e ~ N(0, noise)

The prior draw f is a sum of random Fourier features (Rahimi and Recht 2007) for the stationary parts, and of exact
features for the polynomial. A path can be evaluated at any number of blends at a cost linear in their number.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cho_solve

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.kernels import COVARIATE_LENGTH, LEVEL, Kernel, Rows, polynomial_features
from dropopt.study.blend.mixture import STAGE_FRACTION

#: Inverse gamma prior of the noise variance sigma^2; the targets have a total variance of about 1.
NOISE_SHAPE, NOISE_SCALE = 2.0, 0.6
#: Number of random Fourier features of each part.
FEATURES = 192
#: Factor on the deviation of a draw from the posterior mean. With 1, draws still explore when a budget of tens of
#: trials ends; in the benchmark, 0.5 halves the loss of later trials at no cost to the final result.
TEMPER = 0.5


class Path:
    """A function of blends at a stage, given covariates: a posterior draw, or the posterior mean without ``rng``.

    A draw is in units of sigma, the mean in units of ``target``. Parts that do not depend on the blend are left out.
    """

    def __init__(
        self, rows: Rows, kernel: Kernel, target: Array, covariates: Array | None, rng: np.random.Generator | None
    ) -> None:
        count = rows.covariates.shape[1]
        self._rows, self._kernel = rows, kernel
        self._covariates = np.zeros(count) if covariates is None else covariates
        self._similarity = rows.similarity(self._covariates)
        factor = np.linalg.cholesky(rows.covariance(kernel))
        self._prior = None
        if rng is not None:
            # sigma^2 | y ~ InverseGamma(shape + n / 2, scale + y' G^-1 y / 2)
            misfit = float(target @ cho_solve((factor, True), target, check_finite=False))
            variance = (NOISE_SCALE + misfit / 2) / rng.gamma(NOISE_SHAPE + rows.amount / 2)
            self._prior = PriorDraw(kernel, rows.blend.shape, count, rng)
            drawn = self._prior.at_rows(rows.blend, rows.covariates)
            drawn = drawn + rng.normal(size=len(target)) * np.sqrt(rows.noise)  # f(X) + e
            target = target / math.sqrt(variance) - TEMPER * drawn
        self._alpha = cho_solve((factor, True), target, check_finite=False)  # G^-1 (y - f(X) - e)

    def __call__(self, shares: Array, stage: int) -> Array:
        """The part (B,) of the function due to candidates (B, M) at a stage."""
        value = self._rows.covariance_with(self._kernel, shares, stage, self._similarity) @ self._alpha
        if self._prior is not None:
            value = value + TEMPER * self._prior.at(shares, stage, self._covariates)
        return np.asarray(value)


class PriorDraw:
    """A function drawn from the prior.

    A stationary kernel k has a spectral density, from which frequencies omega are drawn. With phases b uniform in
    [0, 2 pi) and weights g from N(0, 1),

        f(w) = sqrt(2 / F) sum_j g_j cos(omega_j . w + b_j)

    has covariance k as F grows. Weights of different stages share a common part, as the kernels do.
    """

    def __init__(self, kernel: Kernel, shape: tuple[int, ...], covariates: int, rng: np.random.Generator) -> None:
        stages, _, methods = shape
        self._kernel = kernel
        self._level = math.sqrt(LEVEL) * rng.normal()
        scales = np.array([math.sqrt(1 - STAGE_FRACTION)] + [math.sqrt(STAGE_FRACTION)] * stages)

        def weights(count: int) -> Array:  # (S, count): the common part plus each stage's own
            parts = scales[:, None] * rng.normal(size=(stages + 1, count))
            return np.asarray(parts[0] + parts[1:])

        self._polynomial = weights(polynomial_features(np.full((1, methods), 1 / methods)).shape[1])
        self._matern = weights(FEATURES)
        self._interaction = weights(FEATURES)
        # The spectral density of Matern-5/2 is a multivariate t distribution with 5 degrees of freedom, divided by
        # the length scale: normal / sqrt(chi^2_5 / 5) / length. First axis: Matern part, interaction.
        radius = np.sqrt(5 / rng.chisquare(5, size=(2, 1, FEATURES))) / kernel.length
        self._frequency = rng.normal(size=(2, methods, FEATURES)) * radius
        self._phase = rng.uniform(0, 2 * math.pi, size=(3, FEATURES))
        # k_add is a mean over covariates, so each feature uses one covariate drawn at random. The spectral density of
        # a Gaussian kernel is N(0, 1 / length^2). First axis: additive part, interaction.
        chosen = rng.integers(max(covariates, 1), size=(2, FEATURES))
        slope = rng.normal(size=(2, FEATURES)) / COVARIATE_LENGTH
        self._slope = np.zeros((2, covariates, FEATURES))
        if covariates:
            for part in range(2):
                self._slope[part, chosen[part], np.arange(FEATURES)] = slope[part]
        self._covariates = rng.normal(size=FEATURES)

    def at(self, shares: Array, stage: int, covariates: Array) -> Array:
        """The part (B,) due to candidates (B, M) at a stage; covariates are (D,), or (B, D)."""
        kernel, stages = self._kernel, len(self._matern)
        value = np.zeros(len(shares))
        if kernel.polynomial:
            value += math.sqrt(kernel.polynomial) * (polynomial_features(shares) @ self._polynomial[stage])
        if kernel.matern:
            waves = np.cos(shares @ self._frequency[0] + self._phase[0])
            value += math.sqrt(kernel.matern * 2 / FEATURES) * (waves @ self._matern[stage])
        if kernel.interaction:
            waves = np.cos(shares @ self._frequency[1] + covariates @ self._slope[1] + self._phase[1])
            value += math.sqrt(kernel.interaction * 2 / FEATURES) * (waves @ self._interaction[stage])
        return value / stages

    def at_rows(self, blend: Array, covariates: Array) -> Array:
        """The whole function (n,) at blends (S, n, M) with covariates (n, D)."""
        value = self._level + sum(self.at(shares, stage, covariates) for stage, shares in enumerate(blend))
        if self._kernel.covariates and covariates.shape[1]:
            waves = np.cos(covariates @ self._slope[0] + self._phase[2])
            value = value + math.sqrt(self._kernel.covariates * 2 / FEATURES) * (waves @ self._covariates)
        return np.asarray(value)
