"""The effect of each level of a factor: averaged over the other factors, and at their best.

A level is a choice, one of a few evenly spread values of a number, or for a blend each method alone and the equal
blend. Effects are differences of the response from the level that is best, so they are costs: above 0 is worse.

*On average* is the mean over a uniform draw of the other factors. *At best* is the lowest response that the other
factors allow. It is what matters for a choice between levels, because the other factors will be set well. Each draw
from the posterior has its own minimum, over configurations that the posterior mean finds good with that level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dropopt.numbers import short
from dropopt.study.blend.arrays import Array
from dropopt.study.blend.threads import one_thread
from dropopt.study.effects.basis import cube_draws, features, to_simplex
from dropopt.study.effects.factors import Factor, Points, activity, joined
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.model import Model

#: Levels of a continuous range.
LEVELS = 17
#: Random configurations from which the search for good ones starts, a power of two.
POOL = 2048
#: Configurations that are kept for each level, their neighbours in each round of the search, and the rounds' widths.
KEPT, NEIGHBOURS = 24, 8
WIDTHS = (0.3, 0.15, 0.07)
#: Part of the factors that a neighbour changes.
CHANGED = 0.4


@dataclass(frozen=True)
class Level:
    """One level of a factor.

    Attributes:
        label: The level as text.
        value: Its value; a share of 1 for a method, None for the equal blend.
        average: Cost compared with the level that is best on average.
        best: Cost at the best of the other factors, compared with the level that is best there.
        chance: Probability that it is the best level, at the best of the other factors.
    """

    label: str
    value: object
    average: Estimate
    best: Estimate
    chance: float


@dataclass(frozen=True)
class Profile:
    """The levels of a factor.

    Attributes:
        levels: The levels, in order.
        optimum: Of a number, the best value.
        negative: Of a number, the probability that the best value is below 0.
        without: Of a factor that can turn dropout off, the cost of no dropout compared with the best dropout.
    """

    levels: tuple[Level, ...]
    optimum: Estimate | None
    negative: float
    without: Estimate | None


def profiles(model: Model, off: Mapping[str, object], *, only: Sequence[int] | None = None) -> tuple[Profile, ...]:
    """The profile of each factor, or of those at the positions ``only``.

    Costs are fractions of the loss if the response is a logarithm, and in units of the objective otherwise.

    Args:
        model: The model.
        off: For the factors that can turn dropout off, the value that does.
        only: Positions of factors. Default: all.
    """
    with one_thread():
        search = Search(model)
        wanted = range(len(model.design.factors)) if only is None else only
        return tuple(_profile(model, search, index, off) for index in wanted)


def _profile(model: Model, search: Search, index: int, off: Mapping[str, object]) -> Profile:
    factor = model.design.factors[index]
    labels, values, settings = levels_of(factor)
    part = model.design.parts[index]
    average = features(factor, settings) @ model.draws.coefficients[part.start : part.stop]
    best = search.lowest(index, settings)
    chance = (best == best.min(axis=0)).mean(axis=1)

    def cost(response: Array) -> Estimate:
        draws = response * model.response.unit
        return Estimate.of(np.expm1(draws) if model.response.ratio else draws)

    first, lowest = average.mean(axis=1).argmin(), best.mean(axis=1).argmin()
    levels = tuple(
        Level(labels[i], values[i], cost(average[i] - average[first]), cost(best[i] - best[lowest]), float(chance[i]))
        for i in range(len(labels))
    )
    without = None
    if factor.name in off and off[factor.name] in values:
        none = values.index(off[factor.name])
        others = np.delete(best, none, axis=0)
        without = cost(best[none] - others[others.mean(axis=1).argmin()])
    if factor.kind != "number":
        return Profile(levels, None, 0.0, without)
    found = np.array([factor.value(float(position)) for position in settings[best.argmin(axis=0)]])
    return Profile(levels, Estimate.of(found), float((found < 0).mean()), without)


def levels_of(factor: Factor) -> tuple[list[str], list[object], Array]:
    """The levels of a factor: their labels, their values, and the positions or shares that stand for them."""
    if factor.kind == "choice":
        settings = np.arange(len(factor.choices), dtype=float)
        return [str(choice) for choice in factor.choices], list(factor.choices), settings
    if factor.kind == "blend":
        count = len(factor.names)
        shares = np.concatenate([np.eye(count), np.full((1, count), 1 / count)])
        return [*factor.names, "equal shares"], [*factor.names, None], shares
    if factor.levels and factor.levels <= LEVELS:
        settings = (np.arange(factor.levels) + 0.5) / factor.levels
    else:
        settings = np.linspace(0.0, 1.0, LEVELS)
    numbers = [factor.value(float(position)) for position in settings]
    return [short(number) for number in numbers], list(numbers), settings


class Search:
    """Finds configurations with a low response, given the level of one factor."""

    def __init__(self, model: Model) -> None:
        self._design, self._draws = model.design, model.draws.coefficients
        self._mean = self._draws.mean(axis=1)
        self._rng = np.random.default_rng(0)
        pool = joined([uniform(model.design.factors, POOL), model.points])
        self._pool = pool.take(np.argsort(self._height(pool), kind="stable"))
        self._good = self._refined(self._pool.take(np.arange(KEPT)), None)

    def lowest(self, index: int, settings: Array) -> Array:
        """The lowest response (levels, draws) at each level of a factor, over good configurations for it."""
        # Good values of the other factors may be far from those at another level, so the whole pool is tried. Only some
        # parts of the model change with the level.
        pool = joined([self._good, self._pool])
        parts = self._design.depending_on(index)
        mean = np.concatenate([self._mean[part.start : part.stop] for part in parts])
        rest = self._height(pool) - self._design.features(pool, parts) @ mean
        found = []
        for setting in settings:
            tried = self._with(pool, index, setting)
            height = rest + self._design.features(tried, parts) @ mean
            start = tried.take(np.argsort(height, kind="stable")[:KEPT])
            found.append((self._design.matrix(self._refined(start, index)) @ self._draws).min(axis=0))
        return np.array(found)

    def _height(self, points: Points) -> Array:
        return np.asarray(self._design.matrix(points) @ self._mean)

    def _refined(self, points: Points, fixed: int | None) -> Points:
        """The best of ``points`` and their neighbours, in a few rounds; factor ``fixed`` and its conditions stay."""
        for width in WIDTHS:
            near = self._neighbours(points.take(np.repeat(np.arange(len(points)), NEIGHBOURS)), width, fixed)
            points = joined([points, near])
            points = points.take(np.argsort(self._height(points), kind="stable")[:KEPT])
        return points

    def _neighbours(self, points: Points, width: float, fixed: int | None) -> Points:
        kept = set() if fixed is None else {fixed, *(c.parent for c in self._design.factors[fixed].conditions)}
        values = []
        for index, (factor, value) in enumerate(zip(self._design.factors, points.values, strict=True)):
            changed = self._rng.uniform(size=len(points)) < CHANGED
            moved = value if index in kept else self._moved(factor, value, width)
            values.append(np.where(changed if value.ndim == 1 else changed[:, None], moved, value))
        return Points(tuple(values), activity(self._design.factors, values))

    def _moved(self, factor: Factor, value: Array, width: float) -> Array:
        if factor.kind == "choice":
            return self._rng.integers(len(factor.choices), size=len(value)).astype(float)
        if factor.kind == "blend":
            towards = self._rng.dirichlet(np.full(value.shape[1], 0.5), size=len(value))
            return np.asarray(value + 2 * width * self._rng.uniform(size=(len(value), 1)) * (towards - value))
        return factor.to_levels(np.clip(value + width * self._rng.normal(size=len(value)), 0.0, 1.0))

    def _with(self, points: Points, index: int, setting: Array | float) -> Points:
        """The configurations with a factor at a level, and its parents at values that allow it."""
        factors = self._design.factors
        values = [value.copy() for value in points.values]
        values[index][:] = setting
        for condition in factors[index].conditions:
            allowed = np.array(condition.allowed, dtype=float)
            wrong = ~np.isin(values[condition.parent], allowed)
            values[condition.parent][wrong] = allowed[self._rng.integers(len(allowed), size=int(wrong.sum()))]
        return Points(tuple(values), activity(factors, values))


def uniform(factors: tuple[Factor, ...], count: int) -> Points:
    """Evenly spread configurations from the whole space; ``count`` is a power of two."""
    widths = [len(factor.names) if factor.kind == "blend" else 1 for factor in factors]
    cube = cube_draws(sum(widths), count)
    values = []
    for factor, stop, width in zip(factors, np.cumsum(widths), widths, strict=True):
        column = cube[:, stop - width : stop]
        if factor.kind == "blend":
            values.append(to_simplex(column))
        elif factor.kind == "choice":
            values.append(np.floor(column[:, 0] * len(factor.choices)))
        else:
            values.append(factor.to_levels(column[:, 0]))
    return Points(tuple(values), activity(factors, values))
