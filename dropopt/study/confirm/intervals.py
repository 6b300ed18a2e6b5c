"""Means and paired differences with t intervals, and Holm's correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from dropopt.study.blend.arrays import Array

#: The probability of the intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval (Student's t). With one value the interval is infinite."""

    mean: float
    low: float
    high: float
    #: The number of values.
    n: int

    def plain(self) -> dict[str, float | int | None]:
        """Return the fields as values for JSON, which has no infinity."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its 95% interval and the p value of the paired t test, two-sided."""

    interval: Interval
    p: float


def mean_of(values: Sequence[float]) -> Interval:
    """Return the mean of one or more ``values`` with its interval.

    Example:
        >>> found = mean_of([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 2), round(found.high, 2)
        (2.0, -0.48, 4.48)
    """
    numbers = np.asarray(values, dtype=float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Interval(mean, -math.inf, math.inf, len(numbers))
    half = float(stdtrit(len(numbers) - 1, (1 + LEVEL) / 2) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Interval(mean, mean - half, mean + half, len(numbers))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Compare ``first`` with ``second`` over the seeds that both have.

    Args:
        first: A value for each seed.
        second: The same, for the configuration to compare with.

    Returns:
        The difference ``first`` - ``second``; None if fewer than two seeds are common.
    """
    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        return None
    differences = np.array([first[seed] - second[seed] for seed in common])
    return Difference(mean_of(differences.tolist()), p_value(differences))


def p_value(differences: Array) -> float:
    """Return the two-sided p value of the one-sample t test; 1 if all ``differences`` are 0."""
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    statistic = differences.mean() * math.sqrt(len(differences)) / differences.std(ddof=1)
    return float(2 * stdtr(len(differences) - 1, -abs(statistic)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for many comparisons (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979).

    Args:
        p_values: One for each comparison.

    Returns:
        The adjusted values, in the same order. Those below 0.05 are significant; the probability of any false one among
        them is at most 0.05.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
