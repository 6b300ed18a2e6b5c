"""Estimates with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.effects import INTERVAL


@dataclass(frozen=True)
class Estimate:
    """A posterior median with its 90% credible interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Array) -> Estimate:
        """The estimate from draws from the posterior."""
        low, middle, high = np.quantile(draws, (INTERVAL[0], 0.5, INTERVAL[1]))
        return cls(float(middle), float(low), float(high))

    @property
    def sign(self) -> int:
        """+1 or -1 if the interval excludes 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0
