"""Estimates with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.effects import INTERVAL


@dataclass(frozen=True)
class Estimate:
    """A posterior mean with its 90% credible interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Array) -> Estimate:
        """The estimate from draws from the posterior."""
        low, high = np.quantile(draws, INTERVAL)
        return cls(float(draws.mean()), float(low), float(high))

    @property
    def sign(self) -> int:
        """+1 or -1 if the interval excludes 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0
