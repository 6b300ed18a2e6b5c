"""Evidence: the table that the models read, one row for each trial, in an order that depends on content alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropopt.study.blend.arrays import Array, Indices
from dropopt.study.blend.covariates import Standardiser
from dropopt.study.blend.names import Names

#: The trial number of a row that comes from a prior.
PRIOR_ROW = -1


@dataclass(frozen=True)
class Evidence:
    """Blends, outcomes and covariates of trials.

    Attributes:
        names: Parameter names of the blend, by stage.
        blend: (n, S, M) shares.
        score: (n,) normal scores, higher is better.
        value: (n,) standardised outcomes, higher is better.
        covariates: (n, columns) raw numbers; NaN where absent.
        columns: Names of the columns of ``covariates``.
        weight: (n,) 1 for a trial of this study, less for a row of a prior.
        number: (n,) trial numbers, PRIOR_ROW for a row of a prior.
        trials: Number of trials of this study, including those that are left out of the table.
        unit: How much of the outcome one normal score is, approximately.
    """

    names: Names
    blend: Array
    score: Array
    value: Array
    covariates: Array
    columns: tuple[str, ...]
    weight: Array
    number: Indices
    trials: int
    unit: float = math.nan

    def __len__(self) -> int:
        return len(self.score)

    @cached_property
    def standardised(self) -> Array:
        """Covariates (n, D) with mean 0 and standard deviation 1, absent ones at 0, without constant columns."""
        if not self.covariates.size:
            return np.zeros((len(self), 0))
        return self._standardiser.transform(self.covariates)

    def standardise(self, values: Mapping[str, float]) -> Array:
        """One row (D,) on the scale of :attr:`standardised` from values by column; absent ones are at 0."""
        if not self.covariates.size:
            return np.zeros(0)
        row = np.array([[values.get(column, math.nan) for column in self.columns]])
        return np.asarray(self._standardiser.transform(row)[0])

    @cached_property
    def _standardiser(self) -> Standardiser:
        return Standardiser.fit(self.covariates)

    def take(self, rows: NDArray[Any]) -> Evidence:
        """The table with these rows only."""
        parts = {
            part: getattr(self, part)[rows] for part in ("blend", "score", "value", "covariates", "weight", "number")
        }
        return replace(self, **parts)

    def sorted(self) -> Evidence:
        """The table with its rows sorted by content."""
        if len(self) < 2:
            return self
        keys = [self.covariates[:, i] for i in range(self.covariates.shape[1])]
        keys += [*self.blend.reshape(len(self), -1).T, self.weight, self.score]
        return self.take(np.lexsort([np.where(np.isnan(key), math.inf, key) for key in keys]))


def thinned(order: Indices, limit: int) -> Indices:
    """``limit`` of the rows in ``order`` (best first): half from the top, half evenly spread over the rest."""
    top, rest = order[: limit // 2], order[limit // 2 :]
    return np.concatenate([top, rest[np.linspace(0, len(rest) - 1, limit - limit // 2).astype(int)]])
