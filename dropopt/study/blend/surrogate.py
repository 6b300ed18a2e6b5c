"""Thompson draws of a blend, from a model as rich as the data ask for.

Scores are explained by a Gaussian process over the simplex and the covariates. Its kernel is Scheffe's quadratic
polynomial, or a Matern-5/2 on the shares, of several lengths, or both; an additive kernel takes up the covariates
and, where it pays, a product of the two lets the best blend depend on them. Marginal likelihood weighs the kernels,
each with its amplitudes refined on a grid, and a draw first draws a kernel by that weight, then a function
from its posterior (Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors"), and
climbs it. All is a pure function of the evidence and the random generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from threadpoolctl import ThreadpoolController

from dropopt.study.blend.effects import STAGE_SHARE, Array, Evidence, scheffe, shares_of

#: Rows the model reads: a draw costs some ten milliseconds however long the study.
MAX_ROWS = 100
#: Blends from which a climb starts, of each of two kinds; as many climbs as stages share the time.
POOL = 96
#: Random features of a prior draw.
FEATURES = 192
#: Standard deviations of a covariate over which its effect changes.
COVARIATE_LENGTH = 1.5
#: Variance of the level, in units of the noise's.
LEVEL = 10.0
#: Inverse gamma prior of the noise variance of normal scores, whose total variance is 1.
NOISE_SHAPE, NOISE_SCALE = 2.0, 0.6
#: How much of a posterior draw's deviation is kept. Whole draws still explore when a budget of tens of trials ends:
#: in the benchmark half of it halves what the later trials lose and costs nothing at the end.
TEMPER = 0.5
#: Concentration of blends near faces and corners, and how many of the randomised ones are such.
SPARSE, SPARSE_SHARE = 0.35, 0.5

#: A function of blends (candidates, methods) at one stage.
Objective = Callable[[Array, int], Array]
#: Maps blends at one stage to values that may be asked for.
Legal = Callable[[Array, int], Array]


def most_rows(stages: int) -> int:
    """How many rows a blend of so many stages reads: kernels between stages cost as their square."""
    return int(MAX_ROWS / stages**0.25)


@dataclass(frozen=True)
class Kernel:
    """Variances in units of the noise's: polynomial and rough part of the blend, covariates, their product."""

    quadratic: float
    rough: float
    length: float
    covariates: float = 1.0
    cross: float = 0.0

    @property
    def signal(self) -> float:
        """Variance of the blend."""
        return self.quadratic + self.rough

    @property
    def name(self) -> str:
        """What trials are stamped with."""
        return "gp" if self.rough or self.cross else "quadratic"

    def scaled(self, signal: float) -> Kernel:
        """The same shape with ``signal`` as the variance of the blend."""
        factor = signal / self.signal
        return replace(self, quadratic=self.quadratic * factor, rough=self.rough * factor)


#: The shapes that compete: Scheffe's polynomial alone, with a rough part, and rough alone from long to sharp.
SHAPES = (
    Kernel(1.0, 0.0, 1.0),
    Kernel(0.5, 0.5, 0.5),
    Kernel(0.0, 1.0, 1.0),
    Kernel(0.0, 1.0, 0.5),
    Kernel(0.0, 1.0, 0.25),
)
SIGNALS = (0.7, 4.0, 24.0)
COVARIATES = (0.0, 1.0, 6.0)
#: Variances of the product of blend and covariates, in units of the blend's, tried for this many of the best kernels.
CROSSES, CONTENDERS = (0.7, 4.0), 3
#: Log prior odds against such a product: most blends do not depend on the rest.
CROSS_COST = 3.0


class Surrogate:
    """The posterior of scores over blends: competing kernels and their weights."""

    def __init__(self, table: Evidence) -> None:
        self.blend = table.blend.transpose(1, 0, 2)  # (stages, rows, methods)
        self.score = table.score
        self.targets = np.stack([table.score, table.value], axis=1)  # (rows, scales)
        self._stretch = np.array([_stretch(table.score, table.value), 0.0])
        self.covariates = table.standardised
        self.standardise = table.standardise
        self.noise = 1.0 / table.weight
        self.amount = float(table.weight.sum())  # a prior's rows count for what they are worth
        self._distances = _distances(self.blend, self.blend)
        self._rough: dict[float, Array] = {}
        with _one_thread():
            self.kernels, weights = self._compete()
        self.weights = weights / weights.sum()

    def _compete(self) -> tuple[list[tuple[Kernel, int]], Array]:
        """The shapes with their best amplitudes on each scale of the outcome, and the weight of each."""
        amount = 0.0
        if self.covariates.shape[1]:
            options = [replace(SHAPES[1].scaled(4.0), covariates=value) for value in COVARIATES]
            amount = max(options, key=lambda option: float(self.log_evidence(option).max())).covariates
        found: list[tuple[float, Kernel, int]] = []
        for shape in SHAPES:
            options = [replace(shape, covariates=amount).scaled(signal) for signal in SIGNALS]
            logs = np.array([self.log_evidence(option) for option in options])
            for scale, best in enumerate(logs.argmax(axis=0)):
                found.append((float(logs[best, scale]), options[best], scale))
        if self.covariates.shape[1]:
            for _, kernel, scale in sorted(found, key=lambda entry: -entry[0])[:CONTENDERS]:
                for cross in CROSSES:
                    crossed = replace(kernel, cross=cross * kernel.signal)
                    found.append((float(self.log_evidence(crossed)[scale]) - CROSS_COST, crossed, scale))
        logs = np.array([log for log, _, _ in found])
        return [(kernel, scale) for _, kernel, scale in found], np.exp(logs - logs.max())

    @cached_property
    def _polynomial(self) -> Array:
        features = _polynomial(self.blend)
        return _pooled(features[:, None] @ features[None].transpose(0, 1, 3, 2))

    @cached_property
    def _additive(self) -> Array:
        return _additive(self.covariates, self.covariates)

    def _matern(self, length: float) -> Array:
        if length not in self._rough:
            self._rough[length] = _pooled(_matern(self._distances, length))
        return self._rough[length]

    def _gram(self, kernel: Kernel) -> Array:
        """(rows, rows) covariance of the scores, in units of the noise's variance."""
        total = np.full((len(self.score), len(self.score)), LEVEL)
        if kernel.quadratic:
            total += kernel.quadratic * self._polynomial
        if kernel.rough:
            total += kernel.rough * self._matern(kernel.length)
        if kernel.covariates:
            total += kernel.covariates * self._additive
        if kernel.cross:
            total += kernel.cross * self._matern(kernel.length) * self._additive
        total.flat[:: len(total) + 1] += self.noise
        return total

    def log_evidence(self, kernel: Kernel) -> Array:
        """(scales,) log marginal likelihoods, the noise's variance integrated out, up to a constant."""
        factor = np.linalg.cholesky(self._gram(kernel))
        misfit = (solve_triangular(factor, self.targets, lower=True, check_finite=False) ** 2).sum(axis=0)
        shape = NOISE_SHAPE + self.amount / 2
        prior = -0.5 * (math.log(kernel.signal / 3.0) / 1.5) ** 2
        log = prior - np.log(np.diag(factor)).sum() - shape * np.log(NOISE_SCALE + misfit / 2)
        return np.asarray(log + self._stretch)

    def best(self, stage: int, count: int) -> Array:
        """The blends of the best scores at a stage."""
        return np.asarray(self.blend[stage, np.argsort(-self.score, kind="stable")[:count]])

    def draw(self, rng: np.random.Generator, at: Array | None) -> tuple[Objective, str]:
        """A function drawn from the posterior, given the trial's covariates, and its kernel's name."""
        kernel, scale = self.kernels[int(rng.choice(len(self.kernels), p=self.weights))]
        with _one_thread():
            return _Path(self, kernel, scale, rng, at), kernel.name

    def mean(self, at: Array | None = None) -> Objective:
        """The posterior mean, averaged over kernels."""
        parts = [
            (weight, _Path(self, kernel, scale, None, at))
            for (kernel, scale), weight in zip(self.kernels, self.weights, strict=True)
            if weight > 0.01
        ]
        return lambda shares, stage: np.asarray(sum(w * path(shares, stage) for w, path in parts))


class _Path:
    """A posterior draw (or, without ``rng``, the mean) as a function of blends at a stage: a prior draw of
    random features, corrected by its misfit at the rows (Matheron's rule)."""

    def __init__(
        self,
        surrogate: Surrogate,
        kernel: Kernel,
        scale: int,
        rng: np.random.Generator | None,
        at: Array | None,
    ) -> None:
        self._surrogate, self._kernel = surrogate, kernel
        count = surrogate.covariates.shape[1]
        self._at = np.zeros(count) if at is None else at
        gram = surrogate._gram(kernel)
        factor = np.linalg.cholesky(gram)
        target = surrogate.targets[:, scale]
        self._features = None
        if rng is not None:
            misfit = float(target @ cho_solve((factor, True), target, check_finite=False))
            shape = NOISE_SHAPE + surrogate.amount / 2
            variance = (NOISE_SCALE + misfit / 2) / rng.gamma(shape)
            self._features = _Features(kernel, surrogate.blend.shape, count, rng)
            prior = self._features.rows(surrogate.blend, surrogate.covariates)
            prior = prior + rng.normal(size=len(target)) * np.sqrt(surrogate.noise)
            target = target / math.sqrt(variance) - TEMPER * prior
        self._alpha = cho_solve((factor, True), target, check_finite=False)
        self._near = _additive(self._at[None], surrogate.covariates)[0] if count else np.zeros(surrogate.blend.shape[1])

    def __call__(self, shares: Array, stage: int) -> Array:
        kernel, blend = self._kernel, self._surrogate.blend
        total = np.zeros((len(shares), blend.shape[1]))
        if kernel.quadratic:
            features = _polynomial(shares) @ _polynomial(blend).transpose(0, 2, 1)
            total += kernel.quadratic * _pooled_at(features, stage)
        if kernel.rough or kernel.cross:
            matern = _pooled_at(_matern(_distances(shares[None], blend)[0], kernel.length), stage)
            total += matern * (kernel.rough + kernel.cross * self._near)
        value = total @ self._alpha
        if self._features is not None:
            value = value + TEMPER * self._features.at(shares, stage, self._at)
        return np.asarray(value)


class _Features:
    """A draw from the prior: random Fourier features of the rough parts, exact ones of the polynomial."""

    def __init__(self, kernel: Kernel, shape: tuple[int, ...], covariates: int, rng: np.random.Generator) -> None:
        stages, _, methods = shape
        self._kernel = kernel
        self._level = math.sqrt(LEVEL) * rng.normal()
        size = _polynomial(np.full((1, methods), 1 / methods)).shape[1]
        pooled = np.array([math.sqrt(1 - STAGE_SHARE)] * 1 + [math.sqrt(STAGE_SHARE)] * stages)

        def weights(count: int) -> Array:  # (stages, count): a common draw and each stage's own
            parts = pooled[:, None] * rng.normal(size=(stages + 1, count))
            return np.asarray(parts[0] + parts[1:])

        self._polynomial = weights(size)
        self._rough = weights(FEATURES)
        self._cross = weights(FEATURES)
        # Matern-5/2 has a multivariate t spectral density with 5 degrees of freedom.
        radius = np.sqrt(5 / rng.chisquare(5, size=(2, 1, FEATURES))) / kernel.length
        self._frequency = rng.normal(size=(2, methods, FEATURES)) * radius
        self._phase = rng.uniform(0, 2 * math.pi, size=(3, FEATURES))
        # One covariate for each feature: the kernel is additive.
        chosen = rng.integers(max(covariates, 1), size=(2, FEATURES))
        slope = rng.normal(size=(2, FEATURES)) / COVARIATE_LENGTH
        self._slope = np.zeros((2, covariates, FEATURES))
        if covariates:
            for part in range(2):
                self._slope[part, chosen[part], np.arange(FEATURES)] = slope[part]
        self._covariates = rng.normal(size=FEATURES)

    def at(self, shares: Array, stage: int, covariates: Array) -> Array:
        """The blend's part at one stage, whose covariates are (columns,) or a row for each blend."""
        kernel, stages = self._kernel, len(self._rough)
        value = np.zeros(len(shares))
        if kernel.quadratic:
            value += math.sqrt(kernel.quadratic) * (_polynomial(shares) @ self._polynomial[stage])
        if kernel.rough:
            waves = np.cos(shares @ self._frequency[0] + self._phase[0])
            value += math.sqrt(kernel.rough * 2 / FEATURES) * (waves @ self._rough[stage])
        if kernel.cross:
            waves = np.cos(shares @ self._frequency[1] + covariates @ self._slope[1] + self._phase[1])
            value += math.sqrt(kernel.cross * 2 / FEATURES) * (waves @ self._cross[stage])
        return value / stages

    def rows(self, blend: Array, covariates: Array) -> Array:
        """The whole function at the rows of the evidence."""
        value = self._level + sum(self.at(shares, stage, covariates) for stage, shares in enumerate(blend))
        if self._kernel.covariates and covariates.shape[1]:
            waves = np.cos(covariates @ self._slope[0] + self._phase[2])
            value = value + math.sqrt(self._kernel.covariates * 2 / FEATURES) * (waves @ self._covariates)
        return np.asarray(value)


def _stretch(score: Array, value: Array) -> float:
    """Log of the Jacobian of scores by values, so that likelihoods on the two scales can be compared."""
    window = max(1, round(math.sqrt(len(score)) / 2))
    z, v = (np.pad(np.sort(part), window, mode="edge") for part in (score, value))
    rise, run = z[2 * window :] - z[: -2 * window], v[2 * window :] - v[: -2 * window]
    return float((np.log(rise + 1e-2) - np.log(run + 1e-2)).sum())


# -- kernels


def _polynomial(shares: Array) -> Array:
    linear, pairs = scheffe(shares)
    m = shares.shape[-1]
    return np.concatenate([linear / math.sqrt(2 * m), pairs / math.sqrt(m * (m - 1))], axis=-1)


def _distances(a: Array, b: Array) -> Array:
    """(stages, stages, n, m) distances between (stages, n, methods) and (stages, m, methods)."""
    square = (a**2).sum(-1)[:, None, :, None] + (b**2).sum(-1)[None, :, None, :]
    square = square - 2 * (a[:, None] @ b[None].transpose(0, 1, 3, 2))
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def _matern(distance: Array, length: float) -> Array:
    r = math.sqrt(5) / length * distance
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def _pooled(kernel: Array) -> Array:
    """(stages, stages, n, m) to (n, m) for the mean over stages of a common function and each stage's own."""
    stages = len(kernel)
    if stages == 1:
        return np.asarray(kernel[0, 0])
    own = np.einsum("ssnm->nm", kernel) / stages**2
    return np.asarray((1 - STAGE_SHARE) * kernel.mean(axis=(0, 1)) + STAGE_SHARE * own)


def _pooled_at(kernel: Array, stage: int) -> Array:
    """(stages, n, m), blends at ``stage`` against rows at every stage, to (n, m)."""
    stages = len(kernel)
    return np.asarray(((1 - STAGE_SHARE) * kernel.sum(axis=0) + STAGE_SHARE * kernel[stage]) / stages**2)


def _additive(a: Array, b: Array) -> Array:
    """(n, m) mean over covariates of one-dimensional Gaussians."""
    if not a.shape[1]:
        return np.zeros((len(a), len(b)))
    total = np.zeros((len(a), len(b)))
    for column in range(a.shape[1]):
        gap = (a[:, column, None] - b[None, :, column]) / COVARIATE_LENGTH
        total += np.exp(-0.5 * gap * gap)
    return np.asarray(total / a.shape[1])


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One BLAS thread: these matrices are small, and waiting for a second core costs more than it saves."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


# -- climbing


def design(rng: np.random.Generator, methods: int) -> Array:
    """(methods,) a blend that knows nothing: even over the simplex, or near a face or a corner."""
    return rng.dirichlet(np.full(methods, SPARSE if rng.uniform() < SPARSE_SHARE else 1.0))


def climb(
    objective: Objective, stage: int, known: Array, legal: Legal, rng: np.random.Generator, *, stages: int = 1
) -> Array:
    """The values of the best legal blend found: a pool, some near ``known`` blends, then rounds that close in."""
    pool = int(POOL / stages**0.5)
    methods = known.shape[1]
    pairs = [(np.eye(methods)[i] + np.eye(methods)[j]) / 2 for i in range(methods) for j in range(i)]
    start = [rng.dirichlet(np.full(methods, a), size=pool) for a in (1.0, SPARSE)]
    start += [np.eye(methods), np.array(pairs), np.full((1, methods), 1 / methods)]
    start += [known, _near(known, 0.3, 4, rng)]
    values = legal(np.concatenate(start), stage)
    worth = objective(shares_of(values), stage)
    for width in (0.3, 0.1, 0.03):
        top = np.argsort(-worth, kind="stable")[:8]
        closer = legal(_near(shares_of(values[top]), width, 10, rng), stage)
        values = np.concatenate([values[top], closer])
        worth = np.concatenate([worth[top], objective(shares_of(closer), stage)])
    return np.asarray(values[int(np.argmax(worth))])


def _near(blends: Array, width: float, count: int, rng: np.random.Generator) -> Array:
    """``count`` neighbours of each: one half moved towards another blend, the other between two methods."""
    again = np.repeat(blends, count, axis=0)
    towards = rng.dirichlet(np.full(again.shape[1], 0.5), size=len(again))
    mixed = again + width * rng.uniform(size=(len(again), 1)) * (towards - again)
    moved = again.copy()
    giver, taker = rng.integers(again.shape[1], size=(2, len(again)))
    row = np.arange(len(again))
    amount = np.minimum(moved[row, giver], 2 * width * rng.uniform(size=len(again)) ** 2)
    moved[row, giver] -= amount
    moved[row, taker] += amount
    return np.where((row % 2 == 0)[:, None], mixed, moved)
