"""The table of evidence: which trials count, and how complete and pruned trials are ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from blend_study import NAMES, UNIT, random_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import learned
from dropopt.study.blend.surrogate import Surrogate


def trial(
    value: float | None = None,
    *,
    blend: Sequence[float] = (0.2, 0.3, 0.5),
    reports: Sequence[float] = (),
    state: TrialState | None = None,
    number: int = 0,
    **attrs: Any,
) -> FrozenTrial:
    params = dict(zip(NAMES[0], map(float, blend), strict=True))
    made = create_trial(
        params=params,
        distributions=dict.fromkeys(params, UNIT),
        value=value,
        state=state or (TrialState.PRUNED if value is None else TrialState.COMPLETE),
        intermediate_values=dict(enumerate(reports)),
        system_attrs=attrs,
    )
    made.number = number
    return made


def scores(trials: Sequence[FrozenTrial], maximise: bool = False) -> dict[int, float]:
    """Normal score by trial number."""
    for index, one in enumerate(trials):
        one.number = index
    table = gather(trials, NAMES, maximise=maximise)
    return dict(zip(table.number.tolist(), table.score.tolist(), strict=True))


def test_pruned_trials_are_compared_at_equal_steps() -> None:
    """A pruned trial is compared at the step where it stopped, not with final values."""
    early_good = [0.1, 0.9, 1.0]  # the loss rises: early values are lower than all final ones
    trials = [trial(v, reports=[e, v]) for v, e in zip((1.0, 1.1, 1.2), early_good, strict=True)]
    found = scores([*trials, trial(reports=[0.95]), trial(reports=[5.0])])
    assert found[4] == min(found.values())
    assert found[3] < found[0]
    ordered = sorted(found, key=lambda number: -found[number])
    assert ordered.index(3) >= 2


def test_pruned_trials_without_a_comparable_report_are_last() -> None:
    """A pruned trial ranks last if it reported NaN, nothing, or only at a step that no other trial reported."""
    trials = [trial(1.0, reports=[1.0]), trial(2.0, reports=[2.0])]
    for odd in (trial(reports=[math.nan]), trial(), trial(reports=[0.0] * 9)):
        found = scores([*trials, odd])
        assert found[2] < min(found[0], found[1])


def test_failed_trials_are_left_out_and_retries_count_once() -> None:
    """Failed trials add no row; of a chain of retries, the first complete trial counts."""
    base = [trial(1.0, number=0), trial(2.0, number=1)]
    failed = trial(state=TrialState.FAIL, number=2)
    retries = [
        trial(reports=[9.0], number=3, failed_trial=2, retry_history=[2]),
        trial(0.5, number=4, failed_trial=2, retry_history=[2, 3]),
        trial(0.4, number=5, failed_trial=2, retry_history=[2, 3, 4]),
    ]
    assert len(gather([*base, failed], NAMES, maximise=False)) == 2
    table = gather([*base, failed, *retries], NAMES, maximise=False)
    assert sorted(table.number.tolist()) == [0, 1, 4]


def test_shares_and_absent_names() -> None:
    """Weights are divided by their sum, an absent name has the share 0, and an all-zero blend is left out."""
    part = create_trial(params={"w_pfid": 0.2}, distributions={"w_pfid": UNIT}, value=1.0)
    part.number = 1
    table = gather([trial(1.0, blend=(1, 1, 0)), part, trial(1.0, blend=(0, 0, 0), number=2)], NAMES, maximise=False)
    assert {tuple(row) for row in table.blend[:, 0].tolist()} == {(0.5, 0.5, 0.0), (0.0, 0.0, 1.0)}


def test_the_size_of_a_score() -> None:
    """The quartiles of all outcomes are 4 apart, whatever the direction and the number of rows that are kept."""
    trials = [trial(float(value), number=value) for value in range(9)]
    whole = gather(trials, NAMES, maximise=False)
    quartiles = np.quantile(whole.score, [0.25, 0.75])
    assert whole.unit == 4 / (quartiles[1] - quartiles[0])
    for options in ({"maximise": True}, {"maximise": False, "limit": 4}):
        assert gather(trials, NAMES, **options).unit == whole.unit


def test_order_does_not_matter() -> None:
    """The same trials in another order and with other numbers give a bit-identical posterior."""
    first = random_study(150, pruned=0.3)
    second = optuna.create_study()
    rows = first.get_trials()
    for index in np.random.default_rng(3).permutation(len(rows)):
        second.add_trial(rows[index])
    assert learned(first).efficacy == learned(second).efficacy
    tables = [gather(s.get_trials(), NAMES, maximise=False, limit=100) for s in (first, second)]
    assert (tables[0].blend == tables[1].blend).all()
    assert (Surrogate(tables[0]).weights == Surrogate(tables[1]).weights).all()
