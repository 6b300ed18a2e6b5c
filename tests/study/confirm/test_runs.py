"""The runs of a confirmation: whose they are, which are enqueued, and what the ledger does with them."""

from __future__ import annotations

import optuna
import pytest
from confirmed_arms import run
from optuna.trial import TrialState, create_trial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.confirm.ledger import Race, RunLedger, outs
from dropopt.study.confirm.runs import (
    CONFIGURATION,
    REPEAT,
    Run,
    checkpoint_of,
    completed,
    enqueue,
    failed,
    find_runs,
    is_run_elsewhere,
    make_runs,
    run_of,
    unfinished,
)
from dropopt.study.store import keys
from dropopt.study.store.errors import StorageError


@pytest.fixture
def search():
    study = optuna.create_study(study_name="mine")
    study.set_user_attr(keys.ID, "its id")
    study.set_user_attr(keys.BASE, RunConfig().model_dump(mode="json"))
    return study


def test_runs_belong_to_their_search(search):
    """By its name and its id. A study of their name that is none of them is not used."""
    assert find_runs(search, keys.CONFIRMS) is None
    runs = make_runs(search, keys.CONFIRMS, {"fact": 1}, "loss")
    assert (runs.study_name, runs.direction.name, runs.metric_names) == ("mine-confirmed", "MINIMIZE", ["loss"])
    facts = {keys.CONFIRMS: "mine", keys.OF: "its id", "fact": 1}
    assert facts.items() <= runs.user_attrs.items()
    assert make_runs(search, keys.CONFIRMS, {"fact": 2}, "loss").user_attrs == runs.user_attrs
    search.set_user_attr(keys.ID, "another")
    message = (
        r"^study 'mine-confirmed' belongs to an earlier study called 'mine'; .* --study-name mine-confirmed --stor"
    )
    with pytest.raises(ConfigError, match=message):
        find_runs(search, keys.CONFIRMS)
    runs.set_user_attr(keys.CONFIRMS, "yours")
    with pytest.raises(ConfigError, match=r"^study 'mine-confirmed' exists and was not made by dropopt confirm; ren"):
        find_runs(search, keys.CONFIRMS)


@pytest.mark.parametrize(("direction", "trials", "taken"), [("minimize", 0, True), ("minimize", 1, False),
                                                            ("maximize", 0, False)])  # fmt: skip
def test_a_study_whose_maker_died_at_once_is_taken_over(search, direction, trials, taken):
    """It has no trials, and not the attribute that is written last."""
    runs = optuna.create_study(study_name="mine-confirmed", storage=search._storage, direction=direction)
    runs.set_user_attr(keys.BASE, {})
    runs.add_trials([create_trial(value=1.0)] * trials)
    if taken:
        assert find_runs(search, keys.CONFIRMS) is None
        found = make_runs(search, keys.CONFIRMS, {}, "loss").user_attrs
        assert (found[keys.CONFIRMS], found[keys.OF]) == ("mine", "its id")
    else:
        with pytest.raises(ConfigError, match="was not made by dropopt confirm"):
            find_runs(search, keys.CONFIRMS)


def test_what_is_there_already_is_not_enqueued(search):
    """Runs that completed, that wait, and that would diverge again; what failed otherwise or was ended is enqueued."""
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    runs.add_trials(
        [
            run(0, 0),
            run(1, 0, TrialState.FAIL, **{keys.REASON: "Broken"}),
            run(2, 0, TrialState.FAIL, **{keys.REASON: "DivergedError"}),
            run(3, 0, TrialState.PRUNED),
            run(4, 0, TrialState.FAIL, **{keys.REASON: keys.INTERRUPTED, keys.RETRY: True}),
        ]
    )
    enqueue(runs, [Run(0, 5)])
    assert failed(runs) == {Run(0, 1): "Broken", Run(0, 2): "DivergedError"}
    assert unfinished(runs) == {Run(0, 4), Run(0, 5)}
    assert {one: trial.number for one, trial in completed(runs).items()} == {Run(0, 0): 0}
    assert run_of(create_trial(value=1.0)) is None
    enqueue(runs, [Run(1, 0), *(Run(0, number) for number in (5, 3, 2, 1, 0))])
    assert [run_of(trial) for trial in runs.trials[6:]] == [Run(0, 1), Run(0, 3), Run(1, 0)]
    enqueue(runs, [Run(0, 0)], again=True)
    assert run_of(runs.trials[-1]) == Run(0, 0)


def test_two_confirmations_do_not_run_one_run(search):
    """That of the lower number counts, unless completed ones are to run again."""
    trials = [run(0, 0), run(1, 0), run(0, 1, TrialState.FAIL), run(0, 0), run(0, 1), run(1, 0, TrialState.WAITING)]
    for number, trial in enumerate(trials):
        trial.number = number
    assert [is_run_elsewhere(trial, trials) for trial in trials] == [False, False, False, True, False, True]
    trials.append(run(1, 0))
    trials[-1].number = 6
    assert [is_run_elsewhere(trial, trials, again=True) for trial in trials] == [False] * 6 + [True]


def test_a_ledger_starts_a_run_that_another_confirmation_enqueued(search):
    """Its configuration may take part in that confirmation alone: it is read from the search."""
    own = RunConfig.parse({"train": {"lr": 0.3}}).model_dump(mode="json")
    search.add_trial(create_trial(value=1.0, user_attrs={keys.CONFIG: own}))
    number = len(search.trials) - 1
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    ledger = RunLedger(runs, search, {}, race=Race(3, ()))
    enqueue(runs, [Run(1, number)])
    _, configuration = ledger.ask()
    assert (configuration.train.lr, configuration.train.seed) == (0.3, Run(1, number).seed)


def test_a_ledger_starts_runs_and_drops_those_of_a_configuration_that_failed(search):
    """A run has its configuration, and the seed of its repeat. One that another trial has is given back."""
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    configurations = {7: RunConfig.parse({"train": {"lr": 0.7}}), 8: RunConfig.parse({"train": {"lr": 0.8}})}
    out = []
    ledger = RunLedger(runs, search, configurations, race=Race(3, (7, 8)), on_out=lambda *found: out.append(found))
    assert not ledger.wants(1)
    enqueue(runs, [Run(0, 7), Run(0, 8), Run(1, 7), Run(1, 8)])
    runs.enqueue_trial({CONFIGURATION: 8, REPEAT: 0})
    assert ledger.wants(1)
    first, configuration = ledger.ask()
    assert (configuration.train.lr, configuration.train.seed) == (0.7, Run(0, 7).seed)
    second, configuration = ledger.ask()
    assert (configuration.train.lr, configuration.train.seed) == (0.8, Run(0, 8).seed)
    assert ledger.fail(first, "DivergedError", "it diverged", "a trace") == "DivergedError"
    kept = runs.trials[0].user_attrs
    assert (kept[keys.REASON], kept[keys.MESSAGE], kept[keys.TRACE]) == ("DivergedError", "it diverged", "a trace")
    assert out == [(7, "it failed with seed 1: DivergedError")]
    assert outs(runs) == {7: "it failed with seed 1: DivergedError"}
    assert [trial.state.name for trial in runs.trials] == ["FAIL", "RUNNING", "PRUNED", "WAITING", "WAITING"]
    third, configuration = ledger.ask()
    assert (third.number, configuration.train.seed) == (3, Run(1, 8).seed)
    for why in ("another trial has this run", "no run was waiting"):
        assert ledger.ask() is None
        assert (runs.trials[-1].state.name, runs.trials[-1].user_attrs[keys.REASON]) == ("FAIL", keys.GIVEN_BACK)
        assert runs.trials[-1].user_attrs[keys.MESSAGE] == why
    assert ledger.report(second, 0.5, epoch=1, epochs=2) is False
    assert f"{keys.OUT}:7" in runs.user_attrs


def test_two_confirmations_that_drop_configurations_at_the_same_time(search, monkeypatch):
    """Neither loses what the other one has recorded."""
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    both = [RunLedger(runs, search, {}, race=Race(6, (0, number))) for number in (1, 2)]
    for repeat in range(3):
        runs.add_trials([run(number, repeat) for number in (1, 2)])
        runs.add_trial(run(0, repeat, value=0.1))
    record = both[0].study.set_user_attr

    def overtaken(key, value):
        both[1].update_race()
        record(key, value)

    monkeypatch.setattr(both[0].study, "set_user_attr", overtaken)
    both[0].update_race()
    assert sorted(outs(runs)) == [1, 2]
    runs.set_user_attr(keys.OUT, {"3": "worse", "x": "y"})  # as earlier versions stored them
    assert sorted(outs(runs)) == [1, 2, 3]


def test_a_network_is_found_by_its_run(search):
    """Its checkpoint is that of the first attempt. A ledger may look for it where the run was trained."""
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    runs.add_trials([run(3, 0, TrialState.FAIL), run(3, 0, **{keys.RETRY_OF: 0}), run(4, 0)])
    assert checkpoint_of(runs, Run(0, 3)) == ("mine-confirmed", 0)
    assert checkpoint_of(runs, Run(1, 3)) is None
    assert RunLedger(runs, search, {}).checkpoint_of(2)[1] == 2
    elsewhere = {Run(0, 4): ("other", 7)}
    assert RunLedger(runs, search, {}, checkpoint=elsewhere.get).checkpoint_of(2) == ("other", 7)
    assert RunLedger(runs, search, {}, checkpoint=elsewhere.get).checkpoint_of(1)[1] == 0


@pytest.mark.parametrize("anew", [False, True])
def test_a_search_that_was_deleted_is_noticed(search, anew):
    """Also if another one has its name since: no result could be shown."""
    runs = make_runs(search, keys.CONFIRMS, {}, "loss")
    ledger = RunLedger(runs, search, {}, race=Race(3, ()))
    ledger.update_race()
    optuna.delete_study(study_name="mine", storage=search._storage)
    if anew:
        optuna.create_study(study_name="mine", storage=search._storage)
    message = r"^study 'mine' was deleted from the storage .*; the runs that have ended are in study 'mine-confirmed'$"
    with pytest.raises(StorageError, match=message):
        ledger.update_race()
