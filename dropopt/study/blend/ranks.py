"""Ranks: how many other trials each trial beats, pruned ones included, and normal scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtri

from dropopt.study.blend.arrays import Array

#: Last step of a complete trial: it went further than every pruned trial.
COMPLETED = math.inf
#: Last step of a pruned trial that never reported: every trial went at least as far.
NO_REPORT = -math.inf
#: Value, at the step where another trial stopped, of a trial that reported nothing there: it outlived the other.
OUTLIVED = math.inf
#: Value of a report that is not finite.
NOT_FINITE = -math.inf


def normal_scores(wins: Array) -> Array:
    """Ranks (n,) as quantiles of the standard normal distribution; ties share their mean rank.

        z_i = Phi^-1((rank_i - 1/2) / n)

    with Hazen's plotting positions (1914). If all trials tie, all scores are 0.
    """
    if not len(wins):
        return np.zeros(0)
    return np.asarray(ndtri(_wins_against(wins, wins) / len(wins)))  # a tie with itself: rank - 1/2


def wins_of(trials: Sequence[FrozenTrial], outcome: Array, maximise: bool) -> Array:
    """How many of the other trials each trial beats (n,); a tie counts one half.

    Two trials are compared at the last step that both reached:

    - Two complete trials are compared by outcome.
    - A pruned trial is compared, by the values reported at its last step, with each trial that went at least as far.
      A trial that went further but did not report at that step beats it.

    A pruned trial gets at most the median wins of the complete trials: the pruner rejected it, and a good early value
    alone must not make it one of the best.
    """
    complete = np.array([trial.state == TrialState.COMPLETE for trial in trials], dtype=bool)
    wins = np.zeros(len(trials))
    wins[complete] = _wins_among(outcome[complete])
    if complete.all():
        return wins
    reports = [trial.intermediate_values for trial in trials]
    last = np.array(
        [COMPLETED if done else max(steps, default=NO_REPORT) for done, steps in zip(complete, reports, strict=True)]
    )
    stops = np.unique(last[~complete])
    values = _values_at(stops, reports, 1.0 if maximise else -1.0)
    for position, step in enumerate(stops):
        stopped, further, value = last == step, last > step, values[:, position]
        wins[stopped] += _wins_among(value[stopped])
        wins[stopped] += _wins_against(value[further], value[stopped])
        wins[further] += _wins_against(value[stopped], value[further])
    if complete.any():
        wins[~complete] = np.minimum(wins[~complete], np.median(wins[complete]))
    return wins


def _values_at(stops: Array, reports: Sequence[Mapping[int, float]], sign: float) -> Array:
    """Reported values (n, stops) at the steps ``stops``, higher is better.

    Returns NOT_FINITE for a report that is not finite and OUTLIVED where there is none. At the step NO_REPORT, trials
    without any report tie with one another at 0.
    """
    counts = np.array([len(row) for row in reports])
    steps = np.fromiter(chain.from_iterable(reports), dtype=float, count=counts.sum())
    values = np.fromiter(chain.from_iterable(row.values() for row in reports), dtype=float, count=counts.sum())
    column = np.minimum(np.searchsorted(stops, steps), len(stops) - 1)
    at_stop = stops[column] == steps
    found = np.full((len(reports), len(stops)), OUTLIVED)
    found[np.ix_(counts == 0, ~np.isfinite(stops))] = 0.0
    cell = np.repeat(np.arange(len(reports)), counts)[at_stop], column[at_stop]
    found[cell] = np.where(np.isfinite(values[at_stop]), sign * values[at_stop], NOT_FINITE)
    return found


def _wins_among(values: Array) -> Array:
    """How many of the other ``values`` each exceeds, ties half."""
    return _wins_against(values, values) - 0.5  # without the tie with itself


def _wins_against(others: Array, values: Array) -> Array:
    """How many of ``others`` each of ``values`` exceeds, ties half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left")
    return np.asarray((below + np.searchsorted(ordered, values, "right")) / 2.0)
