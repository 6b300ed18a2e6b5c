"""Choosing a portfolio: the configurations that together do best over several tasks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

#: The loss of each configuration on each task, by task and by the name of the configuration. It is infinite where the
#: trial was pruned; a configuration that was not trained on a task is absent from it.
Losses = Mapping[str, Mapping[str, float]]

#: The highest normalised loss, which configurations also have that were pruned or not trained.
WORST = 10.0


def normalised(losses: Losses) -> dict[str, dict[str, float]]:
    """Return the losses of each task on a scale of its own: 0 is the best configuration and 1 the median one."""
    found = {}
    for task, row in losses.items():
        finite = [value for value in row.values() if math.isfinite(value)]
        best, middle = min(finite), float(np.median(finite))
        found[task] = {name: min((value - best) / max(middle - best, 1e-12), WORST) for name, value in row.items()}
    return found


def regret(scores: Losses, chosen: Collection[str]) -> float:
    """Return the mean over tasks of the best score among the ``chosen`` configurations."""
    return float(np.mean([min([WORST, *(row.get(name, WORST) for name in chosen)]) for row in scores.values()]))


def choose(scores: Losses, candidates: Sequence[str], size: int, given: Collection[str] = ()) -> list[str]:
    """Choose greedily the candidates that lower :func:`regret` most, one after another.

    Args:
        scores: Normalised losses.
        candidates: Those to choose from. Of equal ones, the earlier.
        size: How many to choose.
        given: Configurations that are tried in any case.

    Returns:
        The chosen ones, the most useful first. Where no candidate lowers the regret any more, those with the lowest
        mean score follow.
    """
    chosen: list[str] = []
    for _ in range(min(size, len(candidates))):
        rest = [name for name in candidates if name not in chosen]
        mean = {name: float(np.mean([row.get(name, WORST) for row in scores.values()])) for name in rest}
        chosen.append(min(rest, key=lambda name: (regret(scores, [*given, *chosen, name]), mean[name])))
    return chosen
