"""The forecast pruner learns from complete trials how well values at a step predict the final value."""

import math

import optuna
from optuna.trial import TrialState, create_trial

from dropopt.study import ForecastPruner


def study_of(rows, direction="minimize"):
    """A study with complete trials, given as (value at step 3, final value)."""
    study = optuna.create_study(direction=direction, pruner=ForecastPruner())
    for early, final in rows:
        study.add_trial(create_trial(value=final, intermediate_values={3: early}))
    return study


def running(early, step=3):
    """A running trial with the value ``early`` at ``step``."""
    return create_trial(state=TrialState.RUNNING, intermediate_values={step: early})


def pruned(study, early, step=3):
    """Whether a trial with the value ``early`` at ``step`` is pruned."""
    return study.pruner.prune(study, running(early, step))


def spread(index):
    """A number in [0, 1) that is uncorrelated with the final values."""
    return index * 7 % 10 / 10


def test_nothing_but_a_diverged_trial_is_pruned_during_the_warm_up():
    """Steps below ``n_warmup_steps``."""
    study = study_of([(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)])
    for warmup, expected in ((0, True), (3, True), (4, False)):
        pruner = ForecastPruner(n_warmup_steps=warmup)
        assert pruner.prune(study, running(1.9)) is expected
        assert pruner.prune(study, running(math.nan))


def test_a_trial_behind_is_pruned_where_early_values_predict_the_final_ones():
    """With final = early / 2, a trial far behind is pruned and one in front continues, in both directions."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    study = study_of(rows)
    assert pruned(study, 1.9)
    assert not pruned(study, 0.9)
    study = study_of([(-early, -final) for early, final in rows], "maximize")
    assert pruned(study, -1.9)
    assert not pruned(study, -0.9)


def test_a_slow_start_continues_where_early_values_mislead():
    """A trial that is behind early and ahead at the end continues; the median pruner would have pruned it."""
    rows = [(1 + 0.1 * i, 0.6 - 0.03 * i) for i in range(10)]
    study = study_of(rows)
    assert not pruned(study, 2.0)
    assert optuna.pruners.MedianPruner(n_startup_trials=4).prune(study, running(2.0))


def test_nothing_is_pruned_without_evidence():
    """No trial is pruned with too few complete trials, at a step that none of them reported, or without a report."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    assert not pruned(study_of(rows[:3]), 50.0)
    assert not pruned(study_of(rows), 50.0, step=2)
    study = study_of(rows)
    assert not study.pruner.prune(study, create_trial(state=TrialState.RUNNING))


def test_an_average_trial_is_pruned_where_early_values_predict_nothing():
    """If early values predict nothing, an average trial has a small probability of beating the best of twenty."""
    rows = [(1 + spread(3 * i + 1), 0.5 + 0.02 * i) for i in range(20)]
    assert pruned(study_of(rows), 1.5)


def test_the_best_trial_at_a_step_continues():
    """A trial ahead of all others at its step continues, whatever their order, and however well values predict."""
    rows = [(1 + spread(3 * i + 1), 0.5 + 0.02 * i) for i in range(20)]
    assert not pruned(study_of(rows), 0.99)
    rows = [(1 + 0.1 * i, 0.6 - 0.03 * i) for i in range(10)]
    for ordered in (rows, rows[::-1], rows[3:] + rows[:3]):
        assert not pruned(study_of(ordered), 0.99)
        assert pruned(study_of(ordered), 1.01)


def test_complete_trials_that_are_not_finite_are_left_out():
    """A complete trial with an infinite value is left out of the regression."""
    rows = [(1 + 0.1 * i, 0.5 + 0.05 * i) for i in range(10)]
    study = study_of([*rows, (1.0, math.inf), (math.inf, 1.0)])
    assert pruned(study, 1.9)
    assert not pruned(study, 0.9)


def test_a_trial_that_is_not_finite_is_pruned():
    """A trial that reports NaN or infinity is pruned without a forecast."""
    assert pruned(study_of([]), math.nan)
    assert pruned(study_of([]), math.inf)


def test_equal_trials():
    """Ten equal trials have zero variance; another equal trial is as good as the best one and continues."""
    assert not pruned(study_of([(1.0, 1.0)] * 10), 1.0)
