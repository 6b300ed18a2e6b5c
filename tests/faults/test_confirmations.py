"""Confirmations that are interrupted, doubled, damaged, or separated from their search."""

import io
import shutil
import signal
from collections import Counter
from contextlib import closing

import confirmed_arms
import fake_study
import optuna
import outside
import pytest
from fake_confirm import compare, confirm, start
from fake_study import trials
from optuna.trial import TrialState
from outside import Outside, finish
from processes import wait_until
from rich.console import Console

from dropopt.config import ConfigError
from dropopt.study.confirm.results import confirmation
from dropopt.study.confirm.runs import run_of
from dropopt.study.session import comparing, confirming
from dropopt.study.show.status import show_status
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study
from dropopt.study.store.url import resolve

#: Few and short runs: the best configuration with two seeds.
SMALL = {"top": 1, "seeds": 2, "n_jobs": 1, "anchors": False}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    """A journal with a search and its confirmation."""
    path = tmp_path_factory.mktemp("confirmed") / "s.log"
    assert fake_study.run(str(path), n_jobs=1, n_trials=4) == 0
    assert confirm(str(path), **SMALL)[0] == 0
    return path


@pytest.fixture
def storage(confirmed, tmp_path):
    return shutil.copy(confirmed, tmp_path / "s.log").as_posix()


def set_attributes(storage, name, attributes):
    with Outside(storage, name) as study:
        for key, value in attributes.items():
            study.set_user_attr(key, value)


def delete(storage, *names):
    for name in names:
        with Outside(storage, name) as study:
            optuna.delete_study(study_name=name, storage=study._storage)


def readings(storage):
    """How often the test split was read."""
    with Outside(storage, "fake-tested") as study:
        return len(study.user_attrs["readings"])


def complete(storage, name):
    """Count how often each run is complete."""
    return Counter(run_of(trial) for trial in trials(storage, name) if trial.state.name == "COMPLETE")


def test_a_run_that_two_confirmations_enqueue_runs_once(storage):
    """Both may find it missing at the same time. The one with the higher number is given back, and is no failure."""
    for name in ("fake-confirmed", "fake-tested"):
        with Outside(storage, name) as study:
            for trial in study.trials:
                study.enqueue_trial(trial.params)
    code, found = confirm(storage, **SMALL | {"seeds": 3})
    assert code == 0
    assert found.winner.validation.seeds == 3
    assert set(complete(storage, "fake-confirmed").values()) == {1}
    reasons = [trial.user_attrs["reason"] for trial in trials(storage, "fake-confirmed") if trial.state.name == "FAIL"]
    assert reasons == ["given back"] * 2


def test_confirmations_that_start_together(storage):
    """No run twice, and one reading of the test split, which begins when no other process trains any more."""
    delete(storage, "fake-confirmed", "fake-tested")
    for process in [start(storage, 0.02, **SMALL | {"top": 2, "seeds": 3}) for _ in "12"]:
        code, out = finish(process)
        assert code == 0, out
    for name in ("fake-confirmed", "fake-tested"):
        assert set(complete(storage, name).values()) == {1}
        assert {trial.state.is_finished() for trial in trials(storage, name)} == {True}
    assert readings(storage) == 1
    assert len(complete(storage, "fake-tested")) == 3


def test_a_confirmation_counts_its_own_seeds(storage, monkeypatch):
    """Another one with more seeds, and with another configuration, begins meanwhile: the first one has its result."""
    train = confirming._Session.train

    def overtaken(session):
        train(session)
        other = {"seeds": 9, "judged_by": "accuracy", "entrants": [{"trial": 0, "name": "trial 0", "anchor": False}]}
        set_attributes(storage, "fake-confirmed", other)

    monkeypatch.setattr(confirming._Session, "train", overtaken)
    code, found = confirm(storage, **SMALL | {"seeds": 3})
    assert code == 0
    assert (found.seeds, found.winner.validation.seeds, found.optimise) == (3, 3, "loss")


def test_a_comparison_counts_its_own_seeds(tmp_path, monkeypatch):
    """Another one with more seeds confirms the arms meanwhile: none of them is left out."""
    storage, names = str(tmp_path / "s.log"), ("one", "two")
    for seed, name in enumerate(names):
        assert fake_study.run(storage, n_jobs=1, n_trials=1, seed=seed, name=name) == 0

    def overtaken(*arguments):
        ended = confirming.confirm(*arguments)
        set_attributes(storage, f"{ended[1].study}-confirmed", {"seeds": 9})
        return ended

    monkeypatch.setattr(comparing, "confirm", overtaken)
    code, found = compare(storage, names, seeds=2, n_jobs=1)
    assert (code, found.seeds, {arm.name for arm in found.arms}) == (0, 2, {*names})


def test_a_run_whose_retry_was_lost_goes_on_from_its_checkpoint(storage):
    """A process was killed after it had ended the run and before it enqueued it again: it does not begin anew."""
    with Outside(storage, "fake-confirmed") as study:
        number = study.trials[0].params["configuration"]
        lost = {"reason": "interrupted", "retry": True}
        study.add_trial(confirmed_arms.run(number, 2, TrialState.FAIL, **lost))
    assert confirm(storage, **SMALL | {"seeds": 3})[0] == 0
    first, again = (trial for trial in trials(storage, "fake-confirmed") if run_of(trial).repeat == 2)
    assert (again.state.name, again.user_attrs["retry_of"]) == ("COMPLETE", first.number)  # it names the checkpoint


def test_another_reading_of_the_test_split_that_is_interrupted_goes_on(storage):
    """With and without --again; until then status says how. Data that have changed are not read."""
    process = start(storage, 0.3, **SMALL, again=True)
    assert any("(1 of 2 tests)" in line for line in process.stdout)
    wait_until(lambda: any(t.state.name == "RUNNING" and t.intermediate_values for t in trials(storage, "fake-tested")))
    process.send_signal(signal.SIGKILL)
    finish(process)
    console = Console(record=True, width=200, file=io.StringIO())
    with closing(Opened(storage, create=False)) as opened:
        show_status(console, opened.storage, storage)
        assert confirmation(find_study(opened.storage, "fake")).tested is None
    assert "1 trial waits for a worker; resume the study with: dropopt confirm --study fake" in console.export_text()
    code, found = confirm(storage, **SMALL, again=True)
    assert code == 0
    assert found.tested.test.seeds == 2
    assert set(complete(storage, "fake-tested").values()) == {2}
    assert readings(storage) == 2


def test_data_that_have_changed_are_not_read(storage, monkeypatch):
    """Nothing is recorded or enqueued, so that the earlier reading stays the last one."""
    monkeypatch.setenv("FAKE_DATA", "changed")
    with pytest.raises(ConfigError, match="the data of study 'fake' have changed since it began"):
        confirm(storage, **SMALL, again=True)
    assert readings(storage) == 1
    assert len(trials(storage, "fake-tested")) == 2


def test_damaged_attributes_of_a_confirmation_count_as_absent(storage):
    """Attributes of a wrong type, and those that name a trial that does not exist."""
    wrong = {
        "fake-confirmed": {
            "entrants": [1],
            "seeds": "many",
            "chosen_by": 7,
            "out:0": 7,
            "out:x": "y",
            "judged_by": "speed",
        },
        "fake-tested": {"readings": [{}]},
        "fake": {"plan": {"n_trials": 4, "sampler": "tpe", "pruner": "none", "seed": 0, "trial_memory": "much"}},
    }
    beyond = {
        "fake-confirmed": {"entrants": [{"trial": 999, "name": "trial 999", "anchor": False}]},
        "fake-tested": {"readings": [{"configuration": 999, "seeds": 2, "at": "now"}]},
    }
    before = confirm(storage, **SMALL)[1]
    for damage in (wrong, beyond):
        for name, values in damage.items():
            set_attributes(storage, name, values)
        with closing(Opened(storage, create=False)) as opened:
            assert (confirmation(find_study(opened.storage, "fake")) is None) == (damage is wrong)
        code, found = confirm(storage, **SMALL | {"seeds": 3})
        assert code == 0
        assert found.winner.trial == before.winner.trial
        assert found.tested.test.loss[0] == before.tested.test.loss[0]


@pytest.mark.parametrize("name", ["s.db", "s.log"])
def test_a_search_that_is_deleted_ends_its_confirmation(tmp_path, name):
    """At the next report: one line and exit code 1. No run is left without an owner."""
    storage = str(tmp_path / name)
    assert fake_study.run(storage, n_jobs=1, n_trials=1) == 0
    process = start(storage, 0.3, **SMALL | {"seeds": 20})
    wait_until(lambda: any(t.intermediate_values for t in outside.trials(storage, "fake-confirmed")))
    delete(resolve(storage), "fake")
    code, out = finish(process)
    assert (code, "Traceback" in out) == (1, False), out
    assert out.splitlines()[-1].startswith("dropopt: study 'fake' was deleted from the storage while its")
    states = Counter(trial.state.name for trial in trials(storage, "fake-confirmed"))
    assert states["WAITING"] > 0, "it did not end before the last run"
    assert states["RUNNING"] == 0
