"""The numbers of the charts: which trials are drawn, in which order, and with which values."""

import math
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.study.show import series
from dropopt.study.show.series import Curve, Point
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.history import History
from dropopt.study.store.keys import ACCURACY, ANCHOR, HISTORY, SECONDS

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def shot_of(*trials, direction="minimize"):
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return Snapshot.of(study)


def trial(value, state=COMPLETE, epochs=2, **attributes):
    """A trial with as many reports, which end at ``value``."""
    reports = {epoch: value + epochs - epoch for epoch in range(1, epochs + 1)}
    shown = value if state == COMPLETE else None
    return create_trial(value=shown, state=state, intermediate_values=reports, user_attrs=attributes)


@pytest.mark.parametrize(
    ("direction", "anchor", "expected"),
    [
        ("minimize", 0.9, "pruned 2, complete 4, complete 1, complete 5, complete 8, anchor 0, best 3"),
        ("minimize", 0.1, "pruned 2, complete 1, complete 5, complete 8, complete 3, best 0"),
        ("maximize", 0.9, "pruned 2, complete 1, complete 4, complete 7, complete 6, best 0"),
        ("maximize", 0.1, "pruned 2, complete 5, complete 1, complete 4, complete 7, anchor 0, best 6"),
    ],
)
def test_the_curves_are_those_of_the_best_trials_the_anchors_and_pruned_ones(direction, anchor, expected):
    """The best one is on top, above the anchors and the four next ones, the better above the worse.

    An anchor that is the best trial is drawn once. Trials that failed or run, and those of one epoch, have no curve.
    """
    anchored = trial(anchor, **{ANCHOR: "no dropout"})
    values = (0.2, 0.6, 0.4, 0.8, 0.7, 0.3)
    others = [trial(0.5), trial(0.55, PRUNED), *map(trial, values)]
    others += [trial(0.01, FAIL), trial(0.01, RUNNING)]
    found = series.curves(shot_of(anchored, *others, direction=direction))
    names = {f"trial {number}": f"{number}" for number in range(12)} | {"trial 0 (no dropout)": "0"}
    assert ", ".join(f"{curve.kind} {names[curve.name]}" for curve in found) == expected
    assert series.curves(shot_of(trial(0.5, epochs=1))) == []


def test_a_curve_has_the_finite_values_of_a_trial_by_epoch():
    """With five significant digits, in the order of the epochs, whatever order they were stored in."""
    reports = {3: 0.123456789, 1: 2.0, 2: math.nan, 4: 1e-9 / 3}
    shot = shot_of(create_trial(value=0.1, intermediate_values=reports))
    assert series.curves(shot) == [Curve("trial 0", "best", (1, 3, 4), (2.0, 0.12346, 3.3333e-10))]


def test_a_few_pruned_trials_are_drawn_of_many():
    """At even distances, the first and the last among them."""
    pruned = [trial(0.5, PRUNED) for _ in range(58)]
    drawn = [int(curve.name.split()[1]) for curve in series.curves(shot_of(*pruned))]
    assert drawn == list(range(0, 58, 3))


def test_each_trial_that_ended_is_a_point_of_its_cost():
    """Its metric if any trial has one, otherwise its value; the time between start and end if no other is known.

    A trial that ended before its start, because the clock was set back, has no point.
    """
    told = {SECONDS: 12.345678, ACCURACY: 0.9}
    trials = [trial(0.5, **told, **{ANCHOR: "no dropout"}), trial(0.3, **told), trial(0.4, **told)]
    trials += [trial(0.6, PRUNED, **told), trial(0.1, FAIL, **told), trial(0.1, RUNNING), trial(0.7, **{SECONDS: 1.0})]
    found = series.cost(shot_of(*trials))
    kinds = [("complete", 2), ("pruned", 3), ("anchor", 0), ("best", 1)]
    assert found.points == tuple(Point(number, kind, 12.346, 0.9) for kind, number in kinds)
    timed = [trial(0.5), trial(0.25), trial(0.75)]
    for one, seconds in zip(timed, (90, 90, -90), strict=True):
        one.datetime_start = datetime(2026, 1, 1)
        one.datetime_complete = one.datetime_start + timedelta(seconds=seconds)
    points = series.cost(shot_of(*timed)).points
    assert points == (Point(0, "complete", 90.0, 0.5), Point(1, "best", 90.0, 0.25))
    assert series.cost(shot_of(timed[0])) is None, "one point is no chart"


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1.0, 20.0), False), ((1.0, 20.5), True), ((20.5, 5.0, 1.0), True), ((0.0, 99.0), False), ((-1.0, 99.0), False)],
)
def test_a_scale_is_logarithmic_for_positive_values_of_different_size(values, expected):
    """Of all curves together: the largest is above twenty times the smallest."""
    apart = [Curve(f"trial {number}", "complete", (1,), (value,)) for number, value in enumerate(values)]
    together = [Curve("trial 0", "best", tuple(range(len(values))), values)]
    assert series.is_logarithmic(apart) == series.is_logarithmic(together) == expected
    assert not series.is_logarithmic([])


def test_the_tables_of_the_best_trial_have_only_rows_that_say_something():
    """A blend of one method and rates that are all 0 are no tables; methods without a share have no row."""
    weights = {"adaptive": (0.5, 0.0), "pfid": (0.5, 1.0), "plain": (0.0, 0.0)}
    rates = {"conv": (0.0, 0.1), "fc": (0.0, 0.0)}

    def tables(**columns):
        stored = {HISTORY: History(rate_epochs=(2, 4), **columns).plain()}
        shot = shot_of(create_trial(value=1.0, system_attrs=stored))
        return [
            found and (found.names, found.epochs, found.rows) for found in (series.weights(shot), series.rates(shot))
        ]

    assert tables(weights=weights, rates=rates) == [
        (("adaptive", "pfid"), (2, 4), ((0.5, 0.0), (0.5, 1.0))),
        (("conv", "fc"), (2, 4), ((0.0, 0.1), (0.0, 0.0))),
    ]
    assert tables(weights={"pfid": (1.0, 1.0), "plain": (0.0, 0.0)}, rates={"fc": (0.0, 0.0)}) == [None, None]
