"""Runs of a confirmation, and arms of a comparison that were confirmed, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropopt.study.confirm.comparison import ArmResult, Compute
from dropopt.study.confirm.intervals import mean_of
from dropopt.study.confirm.results import Confirmed, Scores
from dropopt.study.confirm.runs import CONFIGURATION, LARGEST, REPEAT


def run(
    configuration: int, repeat: int, state: TrialState = TrialState.COMPLETE, value: float = 0.5, **attributes: Any
) -> FrozenTrial:
    """The run of a configuration of the search with the seed of ``repeat``."""
    params = {CONFIGURATION: configuration, REPEAT: repeat}
    kinds = dict.fromkeys(params, IntDistribution(0, LARGEST))
    result = value if state == TrialState.COMPLETE else None
    return create_trial(params=params, distributions=kinds, value=result, state=state, user_attrs=attributes)


def arm(
    name: str,
    losses: Sequence[float],
    *,
    baseline: bool = False,
    searched: float = 0.3,
    test: Sequence[float] | None = None,
) -> ArmResult:
    """An arm with the ``losses`` of its winner on the validation split, and on the test split; accuracy is 1 - loss."""
    winner = Confirmed(0, name, False, searched, _scores(losses), mean_of(losses), "", 1.0)
    cost = Compute(1, 1, 1.0)
    return ArmResult(name, name, baseline, winner, None if test is None else _scores(test), cost, cost)


def _scores(values: Sequence[float]) -> Scores:
    by_seed = dict(enumerate(values))
    return Scores(by_seed, by_seed, {seed: 1 - value for seed, value in by_seed.items()}, {})
