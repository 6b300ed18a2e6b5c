"""The parts of the model: main effects of factors and interactions of pairs, as features and as kernels.

With g_d the main effect of factor d, g_de the interaction of d and e, and 1_d whether d is used,

    f(x) = level + sum_d 1_d g_d(x_d) + sum_{d<e} 1_d 1_e g_de(x_d, x_e).

The coefficients of g_d have the prior variances a_d lambda_d, those of g_de have rho a_d a_e / (sum_d a_d) times the
product of the variances of their features. Where a factor is used only for some values of a parent, their interaction
is a function of those values that has mean 0 over them. All parts are then uncorrelated under the uniform distribution
on the space, and their variances add up to that of f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.effects.basis import ROUGHNESS, contrasts, features, variances
from dropopt.study.effects.factors import Factor, Points

#: Prior variance of the level, in units of the noise variance.
LEVEL = 10.0


@dataclass(frozen=True)
class Settings:
    """What the data decide about the model.

    Attributes:
        size: (factors,) a_d, the prior variance of a main effect in units of the noise variance.
        together: rho, the strength of interactions.
        rough: (factors,) positions in ROUGHNESS.
    """

    size: Array
    together: float
    rough: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A main effect (one factor) or an interaction (two), and the columns of its features.

    Attributes:
        factors: The positions of its factors.
        start: Its first column.
        stop: The column after its last.
        used: Probability that it is used, in a uniform draw from the space.
        switches: For each other factor that decides whether it is used, the probability that this factor allows it.
    """

    factors: tuple[int, ...]
    start: int
    stop: int
    used: float
    switches: tuple[tuple[int, float], ...]


class Design:
    """The parts of the model for given factors."""

    def __init__(self, factors: tuple[Factor, ...]) -> None:
        self.factors = factors
        self._main = [[variances(factor, r)[0] for r in ROUGHNESS] for factor in factors]
        self._low = [[variances(factor, r)[1] for r in ROUGHNESS] for factor in factors]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs that can interact: both can be used together, and both can vary then."""
        count = len(self.factors)
        return [(d, e) for d in range(count) for e in range(d + 1, count) if self._can_interact(d, e)]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts in the order of their columns, after column 0 of the level."""
        found, column = [], 1
        for group in [*((d,) for d in range(len(self.factors))), *self.pairs]:
            if len(group) == 1:
                stop = column + len(self._main[group[0]][0])
            else:
                stop = column + self._columns(*group) * self._columns(*group[::-1])
            used, switches = self._use(group)
            found.append(Part(group, column, stop, used, switches))
            column = stop
        return tuple(found)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.parts[-1].stop if self.parts else 1

    def matrix(self, points: Points) -> Array:
        """All features (n, columns) of configurations."""
        return np.concatenate([np.ones((len(points), 1)), self.features(points, self.parts)], axis=1)

    def features(self, points: Points, parts: Sequence[Part]) -> Array:
        """The features (n, columns) of some parts, side by side."""
        wanted = {d for part in parts for d in part.factors}
        alone = {d: self._alone(d, points) for d in wanted}
        low = {d: side[:, : len(self._low[d][0])] for d, side in alone.items()}
        table = np.empty((len(points), sum(part.stop - part.start for part in parts)))
        column = 0
        for part in parts:
            own = slice(column, column := column + part.stop - part.start)
            if len(part.factors) == 1:
                table[:, own] = alone[part.factors[0]]
            else:
                d, e = part.factors
                first, second = self._within(d, e, points, low[d]), self._within(e, d, points, low[e])
                table[:, own] = (first[:, :, None] * second[:, None, :]).reshape(len(points), -1)
        return table

    def depending_on(self, index: int) -> tuple[Part, ...]:
        """The parts that may change if a factor gets another value, and the factors that decide about it too."""
        parents = {condition.parent for condition in self.factors[index].conditions} | {index}
        changed = parents | {
            d for d, factor in enumerate(self.factors) if any(c.parent in parents for c in factor.conditions)
        }
        return tuple(part for part in self.parts if not changed.isdisjoint(part.factors))

    def prior(self, settings: Settings) -> Array:
        """Prior variances (columns,) of the coefficients, in units of the noise variance."""
        found = np.empty(self.width)
        found[0] = LEVEL
        scale = settings.together / settings.size.sum()
        for part in self.parts:
            if len(part.factors) == 1:
                (d,) = part.factors
                found[part.start : part.stop] = settings.size[d] * self._main[d][settings.rough[d]]
            else:
                d, e = part.factors
                first, second = self._spread(d, e, settings.rough[d]), self._spread(e, d, settings.rough[e])
                size = scale * settings.size[d] * settings.size[e]
                found[part.start : part.stop] = size * np.outer(first, second).ravel()
        return found

    # -- features of one factor

    def _alone(self, d: int, points: Points) -> Array:
        return features(self.factors[d], points.values[d]) * points.active[:, [d]]

    def _within(self, d: int, other: int, points: Points, low: Array) -> Array:
        """The features of ``d`` that interact with ``other``; only its allowed values count if it is a parent."""
        if not self._is_parent(d, other):
            return low
        allowed = self._allowed(other, d)
        table = np.zeros((len(self.factors[d].choices), len(allowed) - 1))
        table[list(allowed)] = contrasts(len(allowed))
        return np.asarray(table[points.values[d].astype(int)] * points.active[:, [d]])

    def _spread(self, d: int, other: int, rough: int) -> Array:
        """The prior variances of these features; those of a parent are alike."""
        if not self._is_parent(d, other):
            return self._low[d][rough]
        columns = self._columns(d, other)
        return np.full(columns, 1 / columns)

    # -- conditions

    def _allowed(self, child: int, parent: int) -> tuple[int, ...]:
        return next((c.allowed for c in self.factors[child].conditions if c.parent == parent), ())

    def _is_parent(self, d: int, child: int) -> bool:
        return bool(self._allowed(child, d))

    def _columns(self, d: int, other: int) -> int:
        return len(self._allowed(other, d)) - 1 if self._is_parent(d, other) else len(self._low[d][0])

    def _can_interact(self, d: int, e: int) -> bool:
        together = self._shared((d, e))
        return all(together.values()) and self._columns(d, e) > 0 and self._columns(e, d) > 0

    def _shared(self, group: tuple[int, ...]) -> dict[int, set[int]]:
        """By deciding factor, the values with which all factors of ``group`` are used."""
        allowed: dict[int, set[int]] = {}
        for d in group:
            for condition in self.factors[d].conditions:
                known = allowed.get(condition.parent, set(condition.allowed))
                allowed[condition.parent] = known & set(condition.allowed)
        return allowed

    def _use(self, group: tuple[int, ...]) -> tuple[float, tuple[tuple[int, float], ...]]:
        chances = {
            parent: len(values) / len(self.factors[parent].choices) for parent, values in self._shared(group).items()
        }
        switches = tuple(sorted(chances.items()))
        return float(np.prod([chance for _, chance in switches])), switches


class Kernels:
    """Covariances between trials, in units of the noise variance, as a function of the settings.

    They equal ``matrix @ diag(prior) @ matrix.T`` and cost a product of matrices per factor rather than one per pair:

        sum_{d<e} a_d a_e B_d B_e = ((sum_d a_d B_d)^2 - sum_d (a_d B_d)^2) / 2, elementwise.
    """

    def __init__(self, design: Design, points: Points, weight: Array) -> None:
        self._design = design
        self._noise = 1.0 / weight
        self._main, self._low = [], []
        for d in range(len(design.factors)):
            alone = design._alone(d, points)
            low = alone[:, : len(design._low[d][0])]
            self._main.append([(alone * variances) @ alone.T for variances in design._main[d]])
            self._low.append([(low * variances) @ low.T for variances in design._low[d]])
        # The pairs of a factor and its parent, and the pairs that cannot interact, differ from the formula.
        self._special: list[tuple[int, int, Array | None]] = []
        for d in range(len(design.factors)):
            for e in range(d + 1, len(design.factors)):
                parent, child = (d, e) if design._is_parent(d, e) else (e, d)
                if (d, e) not in design.pairs:
                    self._special.append((d, e, None))
                elif design._is_parent(parent, child):
                    side = design._within(parent, child, points, self._low[parent][0])
                    self._special.append((parent, child, side @ side.T / side.shape[1]))

    def __len__(self) -> int:
        return len(self._noise)

    def covariance(self, settings: Settings) -> Array:
        """The covariance (n, n) of the responses."""
        return self.along(settings, None)(0.0)

    def along(self, settings: Settings, index: int | None) -> Along:
        """The covariance as a function of the size of one factor, the other settings being fixed."""
        return Along(self, settings, index)


class Along:
    """The covariance of the responses as a function of the size of one factor."""

    def __init__(self, kernels: Kernels, settings: Settings, index: int | None) -> None:
        self._kernels, self._settings, self._index = kernels, settings, index
        count = len(kernels)
        self._alone, self._sum, self._squares = (np.zeros((count, count)) for _ in range(3))
        for d, size in enumerate(settings.size):
            if d != index:
                low = size * kernels._low[d][settings.rough[d]]
                self._alone += size * kernels._main[d][settings.rough[d]]
                self._sum += low
                self._squares += low * low

    def __call__(self, size: float, rough: int | None = None) -> Array:
        """The covariance (n, n); ``rough`` is the factor's position in ROUGHNESS, if it changes."""
        kernels, settings, index = self._kernels, self._settings, self._index
        sizes, roughs = settings.size, list(settings.rough)
        alone, together, squares = self._alone, self._sum, self._squares
        if index is not None:
            roughs[index] = roughs[index] if rough is None else rough
            sizes = sizes.copy()
            sizes[index] = size
            low = size * kernels._low[index][roughs[index]]
            alone = alone + size * kernels._main[index][roughs[index]]
            together, squares = together + low, squares + low * low
        pairs = (together * together - squares) / 2
        for d, e, side in kernels._special:
            low_d, low_e = kernels._low[d][roughs[d]], kernels._low[e][roughs[e]]
            pairs += sizes[d] * sizes[e] * low_e * ((0.0 if side is None else side) - low_d)
        total = alone + settings.together / sizes.sum() * pairs + LEVEL
        total.flat[:: len(total) + 1] += kernels._noise
        return np.asarray(total)
