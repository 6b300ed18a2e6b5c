"""The forecast pruner: it learns from completed trials how much a step tells of the end."""

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.config import ConfigError
from dropopt.study import ForecastPruner


def study_of(rows, direction="minimize"):
    """Completed trials of (value at step 3, final value)."""
    study = optuna.create_study(direction=direction, pruner=ForecastPruner())
    for early, final in rows:
        study.add_trial(create_trial(value=final, intermediate_values={3: early}))
    return study


def running(early, step=3):
    """A trial at ``early``."""
    return create_trial(state=TrialState.RUNNING, intermediate_values={step: early})


def verdict(study, early, step=3):
    """Whether a trial at ``early`` is stopped."""
    return study.pruner.prune(study, running(early, step))


def spread(index):
    """Something in [0, 1) that goes with nothing else."""
    return index * 7 % 10 / 10


def test_where_early_values_tell_the_end_what_is_behind_stops():
    """Final = early / 2: a trial far behind stops, one in front goes on; maximised, the other way round."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    study = study_of(rows)
    assert verdict(study, 1.9)
    assert not verdict(study, 0.9)
    study = study_of([(-early, -final) for early, final in rows], "maximize")
    assert verdict(study, -1.9)
    assert not verdict(study, -0.9)


def test_where_early_values_mislead_the_slow_go_on():
    """Strong dropout is behind early and ahead at the end: the forecast keeps it, which a median would have stopped."""
    rows = [(1 + 0.1 * i, 0.6 - 0.03 * i) for i in range(10)]
    study = study_of(rows)
    assert not verdict(study, 2.0)
    assert optuna.pruners.MedianPruner(n_startup_trials=4).prune(study, running(2.0))


def test_nothing_stops_without_evidence():
    """Fewer completed trials than asked for, a step that none of them reported, or no report at all."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    assert not verdict(study_of(rows[:3]), 50.0)
    assert not verdict(study_of(rows), 50.0, step=2)
    study = study_of(rows)
    assert not study.pruner.prune(study, create_trial(state=TrialState.RUNNING))


def test_an_average_trial_stops_where_a_step_tells_nothing():
    """Where early values go with nothing, an average trial is left a small chance to beat the best of twenty."""
    rows = [(1 + spread(3 * i + 1), 0.5 + 0.02 * i) for i in range(20)]
    assert verdict(study_of(rows), 1.5)


def test_what_is_in_front_goes_on():
    """Ahead of all others at its step, a trial goes on, whatever a step has told so far."""
    rows = [(1 + spread(3 * i + 1), 0.5 + 0.02 * i) for i in range(20)]
    assert not verdict(study_of(rows), 0.99)
    rows = [(1 + 0.1 * i, 0.6 - 0.03 * i) for i in range(10)]
    assert not verdict(study_of(rows), 0.99)
    assert verdict(study_of(rows), 1.01)


def test_what_is_not_finite_teaches_nothing():
    """A completed trial whose value is infinite is left out, and does not break the others' forecast."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    study = study_of([*rows, (1.0, math.inf), (math.inf, 1.0)])
    assert verdict(study, 1.9)
    assert not verdict(study, 0.9)


def test_what_is_not_finite_stops():
    """NaN and infinity need no forecast."""
    assert verdict(study_of([]), math.nan)
    assert verdict(study_of([]), math.inf)


def test_equal_trials_do_not_break_it():
    """Ten trials alike leave nothing to learn and nothing to divide by: one more of them has an even chance."""
    assert not verdict(study_of([(1.0, 1.0)] * 10), 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_startup_trials": 2}, "n_startup_trials must be at least 3, got 2"),
        ({"chance": 1.0}, r"chance must be in \(0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments(given, message):
    """One line says what is allowed."""
    with pytest.raises(ConfigError, match=message):
        ForecastPruner(**given)
