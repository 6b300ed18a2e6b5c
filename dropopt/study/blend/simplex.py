"""From blends to values that may be asked for: fixed shares, ranges, steps and categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dropopt.study.blend.effects import Array, Names

_ANY = FloatDistribution(0.0, 1.0)


class Simplex:
    """Blends of ``names`` as values of their ``distributions``, some ``held`` at a value, each with ``floor``."""

    def __init__(
        self,
        names: Names,
        distributions: Mapping[str, BaseDistribution],
        held: Mapping[str, float],
        floor: float,
    ) -> None:
        self._floor = floor
        self._distributions = [[distributions.get(name, _ANY) for name in stage] for stage in names]
        single = {
            name: _bounds(distribution)[0]
            for stage, row in zip(names, self._distributions, strict=True)
            for name, distribution in zip(stage, row, strict=True)
            if distribution.single()
        }
        fixed = {**single, **held}
        self._held = [np.array([fixed.get(name, np.nan) for name in stage]) for stage in names]

    def values(self, shares: Array, stage: int) -> Array:
        """(n, methods) values whose shares are the given ones, or as near as the distributions let them be.

        Free values sum to what the held ones leave of 1, so that a held value is its share; where they leave
        nothing, free values keep the given proportion to the held ones as far as their ranges go.
        """
        held = self._held[stage]
        free = np.isnan(held)
        count = len(held)
        above = np.maximum(shares - self._floor, 0.0)
        raw = self._floor + above * (1 - self._floor * count) / above.sum(axis=1, keepdims=True)
        taken = float(held[~free].sum())
        if not free.all():
            part = raw[:, free].sum(axis=1, keepdims=True)
            raw = raw * ((1 - taken) / part if taken < 1 else taken / np.maximum(1 - part, 0.05))
            raw = np.where(free, raw, held)
        high = np.array([_bounds(d)[1] for d in self._distributions[stage]])
        over = (raw / np.maximum(high, 1e-12))[:, free].max(axis=1, initial=0.0, keepdims=True)
        raw = np.where(free, raw / np.maximum(over, 1.0), raw)
        for index in np.flatnonzero(free):
            raw[:, index] = project(raw[:, index], self._distributions[stage][index])
        empty = np.flatnonzero(raw.sum(axis=1) <= 0)
        if len(empty) and free.any():  # coarse steps rounded all of them away
            largest = np.where(free, shares[empty], -1.0).argmax(axis=1)
            raw[empty, largest] = high[largest]
        return np.asarray(raw)


def numeric(distribution: BaseDistribution) -> bool:
    """Whether values of it can be shares."""
    if isinstance(distribution, CategoricalDistribution):
        return all(isinstance(c, int | float) and not isinstance(c, bool) and c >= 0 for c in distribution.choices)
    return isinstance(distribution, FloatDistribution | IntDistribution) and distribution.low >= 0


def project(values: Array, distribution: BaseDistribution) -> Array:
    """The nearest values that ``distribution`` contains."""
    if isinstance(distribution, CategoricalDistribution):
        choices = _choices(distribution)
        return np.asarray(choices[np.abs(values[:, None] - choices).argmin(axis=1)])
    low, high = _bounds(distribution)
    step = getattr(distribution, "step", None)
    if step is not None:
        values = low + np.round((values - low) / step) * step
    return np.asarray(np.clip(values, low, high))


def external(value: float, distribution: BaseDistribution) -> Any:
    """A projected value as the type that ``distribution`` suggests."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(np.abs(_choices(distribution) - value).argmin())]
    return int(value) if isinstance(distribution, IntDistribution) else value


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    if isinstance(distribution, CategoricalDistribution):
        choices = _choices(distribution)
        return float(choices.min()), float(choices.max())
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return float(distribution.low), float(distribution.high)
    return 0.0, 1.0


def _choices(distribution: CategoricalDistribution) -> Array:
    choices: tuple[Any, ...] = distribution.choices
    return np.array([float(choice) for choice in choices])
