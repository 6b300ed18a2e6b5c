"""Covariates: the parameters that are not part of the blend, as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from dropopt.study.blend.arrays import Array

#: A categorical parameter with more choices in use gets no columns: it is an identifier, a seed or a file name.
MAX_CATEGORIES = 12
#: Standardised covariates are clipped to this many standard deviations.
CLIP = 4.0


def cells_of(name: str, value: Any, distribution: BaseDistribution) -> dict[str, float]:
    """One parameter as cells by column: its number, or 1 and 0 for the choices of a categorical parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return {_indicator(name, choice): float(choice == value) for choice in distribution.choices}
    return {name: _number(value, distribution)}


def covariates_of(trials: Sequence[FrozenTrial], skip: set[str]) -> tuple[tuple[str, ...], Array]:
    """Names of the columns, sorted, and the numbers (n, columns), without the parameters in ``skip``.

    A parameter with a logarithmic range enters as its logarithm, a categorical one as an indicator for each choice
    that occurs. A cell is NaN where the trial did not suggest the parameter.
    """
    cells: dict[str, dict[int, float]] = {}
    present: dict[str, list[int]] = {}
    indicators: dict[str, set[str]] = {}
    for index, trial in enumerate(trials):
        distributions = trial.distributions
        for name, value in trial.params.items():
            if name in skip:
                continue
            column, number = name, 1.0
            if isinstance(distributions[name], CategoricalDistribution):
                column = _indicator(name, value)
                indicators.setdefault(name, set()).add(column)
                present.setdefault(name, []).append(index)
            else:
                number = _number(value, distributions[name])
            cells.setdefault(column, {})[index] = number
    owner = {column: name for name, group in indicators.items() for column in group}
    columns = tuple(sorted(c for c in cells if c not in owner or len(indicators[owner[c]]) <= MAX_CATEGORIES))
    table = np.full((len(trials), len(columns)), math.nan)
    for position, column in enumerate(columns):
        if column in owner:
            table[present[owner[column]], position] = 0.0
        table[list(cells[column]), position] = list(cells[column].values())
    return columns, table


def _indicator(name: str, choice: Any) -> str:
    return f"{name}={choice!r}"


def _number(value: Any, distribution: BaseDistribution) -> float:
    number = float(value)
    return math.log(number) if getattr(distribution, "log", False) and number > 0 else number


@dataclass(frozen=True)
class Standardiser:
    """Moments of the columns, NaN ignored."""

    mean: Array
    deviation: Array

    @classmethod
    def fit(cls, table: Array) -> Standardiser:
        """The moments of ``table`` (n, columns)."""
        present = np.isfinite(table)
        count = np.maximum(present.sum(axis=0), 1)
        filled = np.where(present, table, 0.0)
        mean = filled.sum(axis=0) / count
        deviation = np.sqrt((np.where(present, filled - mean, 0.0) ** 2).sum(axis=0) / count)
        return cls(mean, deviation)

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Which columns are not constant."""
        return np.asarray(self.deviation > 1e-9 * (1.0 + np.abs(self.mean)))

    def transform(self, table: Array) -> Array:
        """The columns that vary, with mean 0 and standard deviation 1, clipped; 0 (the mean) where NaN."""
        scaled = (table - self.mean) / np.where(self.varies, self.deviation, 1.0)
        scaled = np.where(np.isfinite(scaled), scaled, 0.0)
        return np.asarray(np.clip(scaled, -CLIP, CLIP)[:, self.varies])
