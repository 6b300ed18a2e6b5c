"""The posterior of the model: settings by slice sampling, and coefficients given the settings.

    y = features @ coefficients + noise,   coefficients ~ N(0, sigma^2 prior),   sigma^2 ~ InverseGamma

Averaging over the settings, rather than choosing the most likely ones, is what keeps the intervals honest in studies of
tens of trials: whether a factor matters at all is itself uncertain.

References: R. M. Neal, "Slice Sampling", Annals of Statistics 31(3), 2003. Coefficients are drawn by Matheron's rule,
as in :mod:`dropopt.study.blend.paths`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from dropopt.study.blend.arrays import Array
from dropopt.study.effects.basis import ROUGHNESS
from dropopt.study.effects.design import Design, Kernels, Settings
from dropopt.study.effects.factors import Points

#: Inverse gamma prior of the noise variance; responses have variance 1.
NOISE_SHAPE, NOISE_SCALE = 1.0, 0.1
#: Lognormal priors: of the size of a main effect, whose median is divided by the number of factors, and of
#: interactions.
SIZE_MEDIAN, SIZE_SPREAD = 3.0, 2.5
TOGETHER_MEDIAN, TOGETHER_SPREAD = 0.3, 1.5
#: First width of a slice, on the logarithmic scale, and the most steps by which it is widened.
WIDTH, STEPS = 2.0, 6
#: Passes over all settings: to choose the scale of the response, before the first draw, and with a draw after each.
TRIAL_SWEEPS, BURN_IN, KEPT = 8, 6, 32
#: Draws of the coefficients for each draw of the settings.
DRAWS_EACH = 8


@dataclass(frozen=True)
class Draws:
    """Draws from the posterior.

    Attributes:
        coefficients: (columns, draws) of the features of a :class:`~dropopt.study.effects.design.Design`.
        noise: (draws,) standard deviation of the noise of a complete trial.
    """

    coefficients: Array
    noise: Array


class Chain:
    """A Markov chain over the settings, given the responses of some trials."""

    def __init__(self, kernels: Kernels, value: Array, amount: float, rng: np.random.Generator) -> None:
        self._kernels, self._value, self._amount, self._rng = kernels, value, amount, rng
        count = len(kernels._main)
        self._centre = math.log(SIZE_MEDIAN / count)
        self.settings = Settings(np.full(count, SIZE_MEDIAN / count), TOGETHER_MEDIAN, (1,) * count)
        self.log_density = -math.inf

    def sweep(self) -> None:
        """Update each setting once."""
        for index in range(len(self.settings.size)):
            self._size(index)
        self._together()

    def _size(self, index: int) -> None:
        """Draw the size of a factor given all other settings, then its roughness."""
        along = self._kernels.along(self.settings, index)

        def log_density(log_size: float) -> float:
            prior = -0.5 * ((log_size - self._centre) / SIZE_SPREAD) ** 2
            return prior + self._evidence(along(math.exp(log_size)))

        log_size = self._slice(math.log(self.settings.size[index]), log_density)
        size = self.settings.size.copy()
        size[index] = math.exp(log_size)
        logs = np.array([self._evidence(along(size[index], rough)) for rough in range(len(ROUGHNESS))])
        chance = np.exp(logs - logs.max())
        chosen = int(self._rng.choice(len(chance), p=chance / chance.sum()))
        rough = tuple(chosen if d == index else r for d, r in enumerate(self.settings.rough))
        self.settings = replace(self.settings, size=size, rough=rough)

    def _together(self) -> None:
        def log_density(log_together: float) -> float:
            prior = -0.5 * ((log_together - math.log(TOGETHER_MEDIAN)) / TOGETHER_SPREAD) ** 2
            covariance = self._kernels.covariance(replace(self.settings, together=math.exp(log_together)))
            return prior + self._evidence(covariance)

        log_together = self._slice(math.log(self.settings.together), log_density)
        self.settings = replace(self.settings, together=math.exp(log_together))
        self.log_density = self._evidence(self._kernels.covariance(self.settings))

    def _evidence(self, covariance: Array) -> float:
        """Log marginal likelihood up to a constant, the noise variance being integrated out."""
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return -math.inf
        misfit = float((solve_triangular(factor, self._value, lower=True, check_finite=False) ** 2).sum())
        shape = NOISE_SHAPE + self._amount / 2
        return float(-np.log(np.diag(factor)).sum() - shape * math.log(NOISE_SCALE + misfit / 2))

    def _slice(self, start: float, log_density: Callable[[float], float]) -> float:
        """One step of slice sampling from ``start``, with stepping out and shrinkage."""
        level = log_density(start) + math.log(1.0 - self._rng.uniform())
        left = start - WIDTH * self._rng.uniform()
        right = left + WIDTH
        for _ in range(STEPS):
            if log_density(left) <= level:
                break
            left -= WIDTH
        for _ in range(STEPS):
            if log_density(right) <= level:
                break
            right += WIDTH
        while right - left > 1e-6:
            point = float(self._rng.uniform(left, right))
            if log_density(point) > level:
                return point
            left, right = (point, right) if point < start else (left, point)
        return start


def coefficients(
    design: Design, points: Points, value: Array, weight: Array, settings: Settings, rng: np.random.Generator
) -> Draws:
    """Draw coefficients and the noise given the settings."""
    table = design.matrix(points)
    prior = design.prior(settings)
    covariance = (table * prior) @ table.T
    covariance.flat[:: len(table) + 1] += 1 / weight
    factor = (np.linalg.cholesky(covariance), True)
    misfit = float(value @ cho_solve(factor, value, check_finite=False))
    shape = NOISE_SHAPE + len(value) / 2
    sigma = np.sqrt((NOISE_SCALE + misfit / 2) / rng.gamma(shape, size=DRAWS_EACH))
    drawn = rng.normal(size=(len(prior), DRAWS_EACH)) * np.sqrt(prior)[:, None] * sigma
    error = rng.normal(size=(len(value), DRAWS_EACH)) / np.sqrt(weight)[:, None] * sigma
    gap = value[:, None] - table @ drawn - error
    found = drawn + prior[:, None] * (table.T @ cho_solve(factor, gap, check_finite=False))
    return Draws(found, sigma)
