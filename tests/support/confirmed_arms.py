"""Arms of a comparison that were confirmed, made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from dropopt.study.confirm.comparison import ArmResult, Compute
from dropopt.study.confirm.intervals import mean_of
from dropopt.study.confirm.results import Confirmed, Scores


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
