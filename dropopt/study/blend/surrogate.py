"""The surrogate: Gaussian processes with different kernels, weighted by marginal likelihood.

Kernels range from Scheffe's polynomial alone to a Matern kernel with a short length scale, so that the model is as
flexible as the evidence supports. Each is fitted to the scores and to the values. A Thompson draw first draws a kernel
and scale by weight, then a function from its posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.kernels import Kernel, Rows
from dropopt.study.blend.paths import NOISE_SCALE, NOISE_SHAPE, Path
from dropopt.study.blend.threads import one_thread

#: Rows that a model with one stage reads. The cost of a draw is then about ten milliseconds, however long the study.
MAX_ROWS = 100
#: The kernels that compete, before their variances are scaled.
SHAPES = (
    Kernel(polynomial=1.0, matern=0.0, length=1.0),
    Kernel(polynomial=0.5, matern=0.5, length=0.5),
    Kernel(polynomial=0.0, matern=1.0, length=1.0),
    Kernel(polynomial=0.0, matern=1.0, length=0.5),
    Kernel(polynomial=0.0, matern=1.0, length=0.25),
)
#: Variances of the blend that are tried, and the mean and standard deviation of their lognormal prior.
SIGNALS = (0.7, 4.0, 24.0)
SIGNAL_CENTRE, SIGNAL_SPREAD = 3.0, 1.5
#: Variances of the covariates that are tried, with this kernel.
COVARIATES, COVARIATES_KERNEL = (0.0, 1.0, 6.0), SHAPES[1].scaled(4.0)
#: Variances of the interaction that are tried, relative to that of the blend, and the number of best kernels to try.
INTERACTIONS, CONTENDERS = (0.7, 4.0), 3
#: Log prior odds against an interaction: in most studies the best blend does not depend on other parameters.
INTERACTION_COST = 3.0
#: Kernels with a lower weight are left out of the posterior mean.
NEGLIGIBLE = 0.01
#: Added to differences before their logarithm is taken.
SMALL = 1e-2

#: Positions of the two scales among the targets.
SCORE, VALUE = 0, 1

#: A function of candidates (B, M) at a stage.
Objective = Callable[[Array, int], Array]


def row_limit(stages: int) -> int:
    """How many rows to read. The cost of kernels between stages is quadratic in the number of stages."""
    return int(MAX_ROWS / stages**0.25)


@dataclass(frozen=True)
class Candidate:
    """A kernel, the scale on which it is fitted, and its log marginal likelihood plus log prior."""

    kernel: Kernel
    scale: int
    log_evidence: float


class Surrogate:
    """The posterior of the outcome as a function of the blend; a pure function of the table.

    Attributes:
        candidates: Kernels on scales.
        weights: (candidates,) posterior probabilities.
        standardise: Standardises the covariates of a new trial; see :meth:`Evidence.standardise`.
    """

    def __init__(self, table: Evidence) -> None:
        self.standardise = table.standardise
        self._score = table.score
        self._rows = Rows(table)
        self._targets = np.stack([table.score, table.value], axis=1)  # (n, scales)
        self._jacobian = np.zeros(2)
        self._jacobian[SCORE] = _log_jacobian(table.score, table.value)
        with one_thread():
            self.candidates = self._compete()
        logs = np.array([candidate.log_evidence for candidate in self.candidates])
        weights = np.exp(logs - logs.max())
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator, covariates: Array | None) -> tuple[Objective, str]:
        """A function drawn from the posterior, given covariates (D,) of the trial, and the name of its kernel."""
        chosen = self.candidates[int(rng.choice(len(self.candidates), p=self.weights))]
        with one_thread():
            return self._path(chosen, covariates, rng), chosen.kernel.name

    def mean(self, covariates: Array | None = None) -> Objective:
        """The posterior mean, averaged over candidates; covariates (D,) are at their means unless given."""
        parts = [
            (weight, self._path(candidate, covariates, None))
            for candidate, weight in zip(self.candidates, self.weights, strict=True)
            if weight > NEGLIGIBLE
        ]
        return lambda shares, stage: np.asarray(sum(w * path(shares, stage) for w, path in parts))

    def best(self, stage: int, count: int) -> Array:
        """The blends (count, M) of the best scores at a stage."""
        return np.asarray(self._rows.blend[stage, np.argsort(-self._score, kind="stable")[:count]])

    def log_evidence(self, kernel: Kernel) -> Array:
        """Log marginal likelihood (scales,) plus log prior of the signal, up to a constant.

        The noise variance sigma^2 ~ InverseGamma(a, b) is integrated out, n being the effective number of rows:

            log p(y) = -1/2 log |G| - (a + n/2) log(b + y' G^-1 y / 2) + constant

        The score's likelihood is multiplied by the Jacobian dz/dv, so that it is a density of values too.
        """
        factor = np.linalg.cholesky(self._rows.covariance(kernel))
        misfit = (solve_triangular(factor, self._targets, lower=True, check_finite=False) ** 2).sum(axis=0)
        shape = NOISE_SHAPE + self._rows.amount / 2
        prior = -0.5 * (math.log(kernel.signal / SIGNAL_CENTRE) / SIGNAL_SPREAD) ** 2
        log = prior - np.log(np.diag(factor)).sum() - shape * np.log(NOISE_SCALE + misfit / 2)
        return np.asarray(log + self._jacobian)

    def _compete(self) -> list[Candidate]:
        """Each shape with its best variance on each scale, and the best of them with an interaction."""
        with_covariates = bool(self._rows.covariates.shape[1])
        amount = self._covariates_variance() if with_covariates else 0.0
        found: list[Candidate] = []
        for shape in SHAPES:
            options = [replace(shape, covariates=amount).scaled(signal) for signal in SIGNALS]
            logs = np.array([self.log_evidence(option) for option in options])  # (signals, scales)
            for scale, best in enumerate(logs.argmax(axis=0)):
                found.append(Candidate(options[best], scale, float(logs[best, scale])))
        if with_covariates:
            for one in sorted(found, key=lambda candidate: -candidate.log_evidence)[:CONTENDERS]:
                for ratio in INTERACTIONS:
                    kernel = replace(one.kernel, interaction=ratio * one.kernel.signal)
                    log = float(self.log_evidence(kernel)[one.scale]) - INTERACTION_COST
                    found.append(Candidate(kernel, one.scale, log))
        return found

    def _covariates_variance(self) -> float:
        options = [replace(COVARIATES_KERNEL, covariates=variance) for variance in COVARIATES]
        return max(options, key=lambda option: float(self.log_evidence(option).max())).covariates

    def _path(self, candidate: Candidate, covariates: Array | None, rng: np.random.Generator | None) -> Path:
        return Path(self._rows, candidate.kernel, self._targets[:, candidate.scale], covariates, rng)


def _log_jacobian(score: Array, value: Array) -> float:
    """log |dz/dv|, the sum over rows of the log slope of scores by values, from differences in a sliding window."""
    window = max(1, round(math.sqrt(len(score)) / 2))
    z, v = (np.pad(np.sort(part), window, mode="edge") for part in (score, value))
    rise, run = z[2 * window :] - z[: -2 * window], v[2 * window :] - v[: -2 * window]
    return float((np.log(rise + SMALL) - np.log(run + SMALL)).sum())
