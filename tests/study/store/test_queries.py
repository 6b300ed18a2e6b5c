"""What is read of a storage: values by loss and by metric, diverged trials, searches and the last activity."""

import math
from datetime import datetime

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.config import ConfigError
from dropopt.study.store.keys import ACCURACY, BASE, BEST_LOSS, CLASSES, CONFIRMS, LEASE, PREVIOUS, REASON, RETRY, TESTS
from dropopt.study.store.queries import (
    Counts,
    choose,
    count,
    diverged,
    find_study,
    judged,
    last_activity,
    leader,
    metric_key,
    no_result,
    numbered,
    ranked,
    search_of,
    searches,
    task_of,
    waiting,
)


@pytest.mark.parametrize(
    ("task", "by", "expected"),
    [
        ({}, "loss", 0.5),
        ({}, "accuracy", pytest.approx(0.1)),
        ({"objective": "metric"}, "loss", 0.4),
        ({"objective": "metric"}, "accuracy", 0.5),
        ({"metric": "mine:worst", "direction": "minimize"}, "accuracy", 0.9),
        ({"metric": "mine:worst", "direction": "minimize", "objective": "metric"}, "loss", 0.4),
    ],
)
def test_a_trial_is_judged_by_what_its_study_minimised_or_by_its_best_epoch(task, by, expected):
    """The value of the trial is of the study's own objective only, and lower is better for either."""
    study = optuna.create_study()
    study.set_user_attr(BASE, {"task": task})
    assert judged(create_trial(value=0.5, user_attrs={BEST_LOSS: 0.4, ACCURACY: 0.9}), by, study) == expected


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial_is_that_of_optuna(direction):
    """In either direction; of several trials with one value, the first. Values that are not finite are no results."""
    study = optuna.create_study(direction=direction)
    for value in (0.5, 0.25, 0.75, 0.25, 0.75, 0.5):
        study.add_trial(create_trial(value=value))
    assert leader(study) == choose(study, None) == study.best_trial
    order = {"minimize": [1, 3, 0, 5, 2, 4], "maximize": [2, 4, 0, 5, 1, 3]}[direction]
    assert [trial.number for trial in ranked(study.trials, maximize=direction == "maximize")] == order
    assert leader(study, study.trials[5:]).number == 5, "of the trials that are given"
    for value in (math.inf, -math.inf):
        study.add_trial(create_trial(value=value))
    assert leader(study).number == order[0]
    assert [trial.number for trial in ranked(study.trials, maximize=direction == "maximize")] == order
    with pytest.raises(ConfigError, match="trial 7 has the value -inf, which is not finite; give another --trial"):
        choose(study, 7)


@pytest.mark.parametrize(("classes", "limit"), [(2, 2.079), (10, 6.908), (1000, 20.723)])
def test_a_loss_above_three_times_that_of_a_guess_has_diverged(classes, limit):
    """The loss of a guess is ln(classes)."""
    study = optuna.create_study()
    study.set_user_attr(CLASSES, classes)
    found = [diverged(create_trial(value=limit * factor), study) for factor in (0.999, 1.001)]
    assert found == [False, True]


@pytest.mark.parametrize(
    ("classes", "task"),
    [
        (None, {}),
        (0, {}),
        (10, {"loss": "mine:summed"}),
        (10, {"metric": "mine:rank", "direction": "minimize", "objective": "metric"}),
    ],
)
def test_a_value_of_unknown_scale_has_not_diverged(classes, task):
    """The value of a guess is known for the cross-entropy of classes only; a high loss or metric of one's own leads."""
    study = optuna.create_study()
    study.set_user_attr(CLASSES, classes)
    study.set_user_attr(BASE, {"task": task})
    study.add_trial(create_trial(value=1e9))
    assert not diverged(study.trials[0], study)
    assert leader(study) == study.trials[0]


def test_confirmations_and_tests_are_no_searches():
    """So a storage with one search needs no name of a study, whatever has been confirmed."""
    storage = optuna.storages.InMemoryStorage()
    for name, key in (("b", None), ("b confirmed", CONFIRMS), ("b tested", TESTS)):
        study = optuna.create_study(study_name=name, storage=storage)
        if key is not None:
            study.set_user_attr(key, "b")
    assert searches(storage) == ["b"]
    assert find_study(storage, None).study_name == "b"
    optuna.create_study(study_name="a", storage=storage)
    with pytest.raises(ConfigError, match="2 studies; give --study with one of: a, b"):
        find_study(storage, None)


def test_the_last_activity_is_the_last_start_or_end_of_a_trial():
    """A trial that waits has neither."""
    waiting = create_trial(state=TrialState.WAITING)
    assert last_activity([waiting]) is None
    trials = [waiting, create_trial(value=1.0), create_trial(state=TrialState.RUNNING)]
    for trial, hours in zip(trials[1:], [(1, 4), (2, None)], strict=True):
        trial.datetime_start, trial.datetime_complete = (hour and datetime(2026, 1, 1, hour) for hour in hours)
    assert last_activity(trials) == datetime(2026, 1, 1, 4)
    trials[2].datetime_start = datetime(2026, 1, 1, 5)
    assert last_activity(trials) == datetime(2026, 1, 1, 5)


def fail(**attributes):
    return create_trial(state=TrialState.FAIL, user_attrs=attributes)


def test_trials_are_counted_by_how_they_ended():
    """Those without a result are counted apart from failures, and those that wait not at all."""
    trials = [create_trial(value=1.0)] * 5 + [create_trial(state=TrialState.PRUNED)] * 4
    trials += [fail(**{REASON: "Broken"})] * 3 + [
        fail(**{REASON: why}) for why in ("interrupted", "abandoned", "given back")
    ]
    trials += [create_trial(state=TrialState.RUNNING)] * 2 + [create_trial(state=TrialState.WAITING)]
    found = count(trials)
    assert (found, found.counted) == (Counts(5, 4, 3, 3, 2), 12)
    assert str(found) == "5 complete, 4 pruned, 3 failed, 3 interrupted, 2 running"
    assert (str(Counts()), str(Counts(running=1))) == ("none yet", "1 running")


def test_trials_wait_for_a_worker_if_theirs_has_died_or_stopped(monkeypatch):
    """Unless they have been replaced. Running ones count if no process writes, or if their process is gone."""
    monkeypatch.setattr("dropopt.study.store.lease._machine", lambda: {"boot": "b"})
    monkeypatch.setattr("dropopt.study.store.lease._began", lambda pid: None)
    gone = {LEASE: {"process": {"boot": "b", "pid": 2**22 + 1, "began": "1"}}}
    study = optuna.create_study()
    study.add_trials([fail(**{RETRY: True}), fail(**{RETRY: True}), fail(), create_trial(value=1.0)])
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={PREVIOUS: 0}))
    study.add_trials([create_trial(state=TrialState.RUNNING, user_attrs=facts) for facts in ({}, gone)])
    assert [waiting(study.trials, alone=alone) for alone in (False, True)] == [2, 3]


def test_what_is_asked_of_a_study_that_lacks_it_is_an_error_in_one_line():
    """With what there is instead."""
    storage = optuna.storages.InMemoryStorage()
    with pytest.raises(ConfigError, match=r"^the storage has 0 studies; run a study first$"):
        find_study(storage, None)
    with pytest.raises(ConfigError, match=r"^no study 'a' in this storage; it is empty$"):
        find_study(storage, "a")
    study = optuna.create_study(study_name="a", storage=storage)
    with pytest.raises(ConfigError, match=r"^no study 'ab' in this storage; did you mean 'a'\? known: a$"):
        find_study(storage, "ab")
    with pytest.raises(ConfigError, match=r"^study 'a' has no trial 0; there are: none$"):
        numbered(study, 0)
    assert no_result(study) == "study 'a' has no completed trial yet (none yet)"
    with pytest.raises(ConfigError, match=r"^study 'a' has no completed trial yet \(none yet\)$"):
        choose(study, None)
    study.add_trial(create_trial(value=math.inf))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    assert no_result(study) == "study 'a' has no completed trial with a finite value yet (1 complete, 1 pruned)"
    with pytest.raises(ConfigError, match=r"^study 'a' has no trial 7; there are: 0 to 1$"):
        numbered(study, 7)
    assert choose(study, 1) == numbered(study, 1) == study.trials[1]


def test_the_names_of_what_is_stored():
    """Of the metric, and of the search that a study confirms or tests."""
    assert [metric_key(score) for score in ("accuracy", "dice", "loss")] == ["val_accuracy", "val_dice", "val_metric"]
    study = optuna.create_study(study_name="s")
    assert search_of(study) is None
    for key in (TESTS, CONFIRMS):
        study.set_user_attr(key, key)
        assert search_of(study) == key
    assert task_of(study).judged_by == "loss"
    for base in ({}, {"task": None}, None):
        study.set_user_attr(BASE, base)
        assert task_of(study) == task_of(optuna.create_study())
