"""The response that the model explains: one number for each trial, lower is better, pruned trials included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.outcomes import INFEASIBLE, NORMAL_IQR, outcomes_of
from dropopt.study.blend.ranks import normal_scores, wins_of

#: Responses are clipped this many robust standard deviations from the median: a trial may have diverged.
TAIL = 25.0

#: How much a pruned trial counts, compared with a complete one. Its final value is inferred from its rank.
PRUNED_WEIGHT = 0.5


@dataclass(frozen=True)
class Response:
    """What a model is fitted to.

    Attributes:
        ratio: Whether the response is the logarithm of the loss, so that a difference is a ratio of losses.
        value: (n,) the response with mean 0 and standard deviation 1; lower is better.
        unit: The size of one unit of ``value`` in the response.
        weight: (n,) how much each trial counts.
        log_slope: (n,) logarithm of the derivative of ``value`` with respect to the loss.
    """

    ratio: bool
    value: Array
    unit: float
    weight: Array
    log_slope: Array


def responses(
    trials: Sequence[FrozenTrial], maximise: bool, target: Callable[[FrozenTrial], float] | None = None
) -> list[Response]:
    """The responses on each scale that the values allow: logarithmic if all are above 0, and linear.

    A pruned trial gets the value that corresponds to its rank among all trials, compared at the last step that both
    reached, as in :mod:`dropopt.study.blend.ranks`. Returns an empty list if fewer than two values are known.

    Args:
        trials: Finished trials.
        maximise: Whether a higher value is better.
        target: What to explain instead of the objective; pruned trials must then be absent.
    """
    if target is None:
        outcome = outcomes_of(trials, maximise)
    else:
        outcome = -np.array([target(trial) for trial in trials], dtype=float)
    known = np.isfinite(outcome) & (outcome > INFEASIBLE)
    if known.sum() < 2:
        return []
    score = normal_scores(wins_of(trials, outcome, maximise)) if target is None else normal_scores(outcome)
    complete = np.array([trial.state == TrialState.COMPLETE for trial in trials])
    weight = np.where(complete, 1.0, PRUNED_WEIGHT)
    loss = -outcome
    scales = [True, False] if (loss[known] > 0).all() else [False]
    return [_response(loss, known, score, weight, ratio) for ratio in scales]


def _response(loss: Array, known: NDArray[np.bool_], score: Array, weight: Array, ratio: bool) -> Response:
    own = np.log(loss[known]) if ratio else loss[known]
    value = np.empty(len(loss))
    value[known] = own
    # Scores rise as losses fall.
    value[~known] = np.interp(score[~known], np.sort(score[known]), np.sort(own)[::-1])
    low, middle, high = np.quantile(np.sort(own), [0.25, 0.5, 0.75])
    spread = (high - low) / NORMAL_IQR or float(np.sort(own).std())
    if spread > 0:
        value = np.clip(value, middle - TAIL * spread, middle + TAIL * spread)
    ordered = np.sort(value)  # a sum of sorted floats does not depend on the order of trials
    unit = float(ordered.std())
    size = 1.0 if ratio else float(np.abs(ordered).max())
    if unit <= 1e-12 * size:  # equal, up to rounding
        return Response(ratio, np.zeros(len(value)), 1.0, weight, np.zeros(len(value)))
    log_slope = -np.log(unit) - (value if ratio else np.zeros(len(value)))
    return Response(ratio, (value - ordered.mean()) / unit, unit, weight, log_slope)
