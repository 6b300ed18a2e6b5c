"""The race: which configurations are clearly worse than the leader, and are not trained on further seeds.

The leader is the configuration with the lowest mean. Another one is out if the lower bound of a one-sided t interval of
its paired differences to the leader, over the seeds that both have, is above 0. The level is corrected (Bonferroni) for
the number of configurations and of looks, so that with a probability of at least 95% the best one is never out.
Differences are those of logarithms: one run with a huge loss does not hide how large the usual difference is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from scipy.special import stdtrit

from dropopt.study.blend.arrays import Array

#: The smallest number of common seeds for a comparison.
FEWEST_SEEDS = 3
#: The probability that the best configuration is out.
ALPHA = 0.05
#: Added to values before taking the logarithm: an error of 0 has no logarithm, and one below is not told apart.
OFFSET = 1e-3


def losers(
    values: Mapping[int, Mapping[int, float]], *, seeds: int, kept: Collection[int] = (), entrants: int | None = None
) -> dict[int, str]:
    """Return the configurations that are clearly worse, each with the reason.

    Args:
        values: The values so far (lower is better) of each configuration that is still in the race, by seed.
        seeds: The number of seeds with which the race ends.
        kept: Configurations that are never out, because the result is compared with them.
        entrants: The number of configurations that began the race. Default: those in ``values``.
    """
    started = {number: row for number, row in values.items() if len(row) >= FEWEST_SEEDS}
    if len(started) < 2:
        return {}
    leader = min(started, key=lambda number: (_mean_log(started[number]), number))
    looks = max(1, seeds - FEWEST_SEEDS)
    level = ALPHA / (max(1, (entrants or len(values)) - 1) * looks)
    out = {}
    for number, row in started.items():
        common = sorted(row.keys() & started[leader].keys())
        if number == leader or number in kept or len(common) < FEWEST_SEEDS:
            continue
        differences = np.array([_log(row[seed]) - _log(started[leader][seed]) for seed in common])
        if _lower_bound(differences, level) > 0:
            worse = math.expm1(float(differences.mean()))
            out[number] = f"clearly worse than the leader after {len(common)} seeds, by {worse:.0%}"
    return out


def leading_anchor(values: Mapping[int, Mapping[int, float]], anchors: Collection[int]) -> int | None:
    """Return the anchor with the lowest mean so far; None if no anchor has a value."""
    begun = [number for number in anchors if values.get(number)]
    return min(begun, key=lambda number: (_mean_log(values[number]), _mean(values[number]), number), default=None)


def _mean(row: Mapping[int, float]) -> float:
    """The mean, which also orders values below 0: their logarithms are all the same."""
    return sum(row.values()) / len(row)


def _mean_log(row: Mapping[int, float]) -> float:
    return sum(map(_log, row.values())) / len(row)


def _log(value: float) -> float:
    return math.log(max(value, 0.0) + OFFSET)


def _lower_bound(differences: Array, level: float) -> float:
    n = len(differences)
    return float(differences.mean() - stdtrit(n - 1, 1 - level) * differences.std(ddof=1) / math.sqrt(n))
