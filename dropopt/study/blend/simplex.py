"""From shares to values that the search space contains: fixed values, ranges, steps and categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.names import Names

#: The distribution of a name that no trial has suggested yet.
UNKNOWN = FloatDistribution(0.0, 1.0)

#: Lower limit of the sum of the shares of held names, by which free shares are divided.
_LEAST = 0.05
#: Used in place of an upper bound of 0 in a denominator.
_TINY = 1e-12


class Simplex:
    """The legal values of a blend.

    Args:
        names: Parameter names of the blend, by stage.
        distributions: Distributions by name; [0, 1] where absent.
        held: Values by name that are not free.
        floor: The smallest share of a free method.
    """

    def __init__(
        self,
        names: Names,
        distributions: Mapping[str, BaseDistribution],
        held: Mapping[str, float],
        floor: float,
    ) -> None:
        self._floor = floor
        self._distributions = [[distributions.get(name, UNKNOWN) for name in stage] for stage in names]
        single = {
            name: _bounds(distribution)[0]
            for stage, row in zip(names, self._distributions, strict=True)
            for name, distribution in zip(stage, row, strict=True)
            if distribution.single()
        }
        fixed = {**single, **held}
        # By stage, (M,) held values; NaN where free.
        self._held = [np.array([fixed.get(name, np.nan) for name in stage]) for stage in names]

    def values(self, shares: Array, stage: int) -> Array:
        """Values (B, M) whose shares are ``shares`` (B, M), or as close as the distributions allow.

        Free values sum to 1 minus the held values, so that a held value is its share. If the held values sum to 1 or
        more, free values keep the given proportion to them as far as their ranges allow.
        """
        held = self._held[stage]
        free = np.isnan(held)
        values = self._scaled(self._raised(shares), held, free)
        high = np.array([_bounds(d)[1] for d in self._distributions[stage]])
        over = (values / np.maximum(high, _TINY))[:, free].max(axis=1, initial=0.0, keepdims=True)
        values = np.where(free, values / np.maximum(over, 1.0), values)
        for index in np.flatnonzero(free):
            values[:, index] = project(values[:, index], self._distributions[stage][index])
        empty = np.flatnonzero(values.sum(axis=1) <= 0)
        if len(empty) and free.any():  # coarse steps rounded all of them to 0
            largest = np.where(free, shares[empty], -1.0).argmax(axis=1)
            values[empty, largest] = high[largest]
        return np.asarray(values)

    def _raised(self, shares: Array) -> Array:
        """Shares with none below the floor."""
        above = np.maximum(shares - self._floor, 0.0)
        return np.asarray(self._floor + above * (1 - self._floor * shares.shape[1]) / above.sum(axis=1, keepdims=True))

    @staticmethod
    def _scaled(shares: Array, held: Array, free: Any) -> Array:
        """Held values, and the free shares scaled to complement them."""
        if free.all():
            return shares
        if not free.any():
            return np.broadcast_to(held, shares.shape)
        taken = float(held[~free].sum())
        part = shares[:, free].sum(axis=1, keepdims=True)
        scaled = shares * ((1 - taken) / part if taken < 1 else taken / np.maximum(1 - part, _LEAST))
        return np.where(free, scaled, held)


def numeric(distribution: BaseDistribution) -> bool:
    """Whether all values of the distribution are non-negative numbers, as weights are."""
    if isinstance(distribution, CategoricalDistribution):
        return all(isinstance(c, int | float) and not isinstance(c, bool) and c >= 0 for c in distribution.choices)
    return isinstance(distribution, FloatDistribution | IntDistribution) and distribution.low >= 0


def project(values: Array, distribution: BaseDistribution) -> Array:
    """The nearest values that the distribution contains."""
    if isinstance(distribution, CategoricalDistribution):
        choices = _choices(distribution)
        return np.asarray(choices[np.abs(values[:, None] - choices).argmin(axis=1)])
    low, high = _bounds(distribution)
    step = getattr(distribution, "step", None)
    if step is not None:
        values = low + np.round((values - low) / step) * step
    return np.asarray(np.clip(values, low, high))


def external(value: float, distribution: BaseDistribution) -> Any:
    """A projected value in the type that the distribution suggests."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(np.abs(_choices(distribution) - value).argmin())]
    return int(value) if isinstance(distribution, IntDistribution) else value


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    if isinstance(distribution, CategoricalDistribution):
        choices = _choices(distribution)
        return float(choices.min()), float(choices.max())
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return float(distribution.low), float(distribution.high)
    return UNKNOWN.low, UNKNOWN.high


def _choices(distribution: CategoricalDistribution) -> Array:
    choices: tuple[Any, ...] = distribution.choices
    return np.array([float(choice) for choice in choices])
