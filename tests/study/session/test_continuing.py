"""``dropopt resume-trial``: a pruned trial is continued to its end."""

import os
import shutil
import signal
import sys

import fake_study
import numpy as np
import optuna
import pytest
from fake_study import resume
from outside import Outside, finish, reporting, trials
from processes import launch, wait_until

from dropopt.config import ConfigError, RunConfig
from dropopt.seeds import derived_seed
from dropopt.study.run.errors import StudyError
from dropopt.study.run.slots import Targets
from dropopt.study.session import continuing
from dropopt.study.store.ledger import SEED_BITS
from dropopt.study.store.retries import enqueue_continuation
from dropopt.study.store.trial_budget import budget_used
from dropopt.training import train_run


def test_a_resumed_trial_equals_one_that_was_not_pruned(tmp_path, capsys):
    """Its reports have the same bits: it goes on from the checkpoint that was kept."""
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(100) % 10)  # digits would be read with scikit-learn
    given = {"train": {"epochs": 3, "batch_size": 32}, "sampler": "random", "n_trials": 12}
    given |= {"data": {"name": f"numpy:{tmp_path / 'images.npz'}"}}
    given |= {"space": "no_dropout", "pruner": "median", "keep_checkpoints": 1, "seed": 3}
    storage, folder = tmp_path / "s.log", tmp_path / "s.log.checkpoints"
    assert fake_study.run(str(storage), 1, Targets(), **given) == 0
    pruned = [trial.number for trial in trials(storage) if trial.state.name == "PRUNED"]
    assert [path.stem.rpartition("-")[2] for path in folder.iterdir()] == [str(pruned[-1])]
    capsys.readouterr()
    assert resume(storage, pruned[-1], Targets()) == 0
    assert "it continues from its checkpoint" in capsys.readouterr().out
    new = trials(storage)[-1]
    assert (new.state.name, new.user_attrs["continues"]) == ("COMPLETE", pruned[-1])
    reports = []
    train_run(RunConfig.parse(trials(storage)[pruned[-1]].user_attrs["config"]), reports.append)
    assert new.intermediate_values == {report.epoch: report.smoothed_loss for report in reports}
    assert not folder.exists()
    assert budget_used(trials(storage)) == 12, "trials that continue others do not count"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A study of three trials: complete, pruned, and failed by its time limit."""
    path = tmp_path_factory.mktemp("stored") / "s.log"
    fake_study.run(str(path), n_jobs=1, n_trials=1, pruner="none")
    with Outside(path) as study:
        for state, facts in (("PRUNED", {}), ("FAIL", {"reason": "time limit"})):
            first = study.trials[0]
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[state],
                    params=first.params,
                    distributions=first.distributions,
                    intermediate_values={1: 99.0},
                    user_attrs=facts,
                )
            )
    return path


@pytest.fixture
def storage(stored, tmp_path):
    return shutil.copy(stored, tmp_path / "s.log")


def test_a_trial_is_continued_once(storage, capsys):
    """A trial that was pruned or ended by a limit.

    Without a checkpoint it begins again, with the seed that its number gives it.
    """
    capsys.readouterr()
    assert resume(storage, 1) == 0
    assert "it continues from the beginning with the same seed" in capsys.readouterr().out
    assert resume(storage, 2) == 0
    new = trials(storage)[-2:]
    assert [(trial.state.name, trial.user_attrs["continues"]) for trial in new] == [("COMPLETE", 1), ("COMPLETE", 2)]
    assert sorted(new[0].intermediate_values) == list(range(1, 9))
    assert new[0].intermediate_values[1] != 99.0
    assert new[0].user_attrs["seed"] == derived_seed(0, "train", 1, bits=SEED_BITS)
    with pytest.raises(ConfigError, match=r"trial 3 has continued trial 1 already: loss \d\.\d{4}$"):
        resume(storage, 1)
    assert len(trials(storage)) == 5


def test_two_commands_that_enqueue_one_continuation(storage, capsys):
    """The second one is given back, which does not hide the result of the first one."""
    with Outside(storage) as study:
        for _ in range(2):
            enqueue_continuation(study, study.trials[1], study.trials[1])
    capsys.readouterr()
    assert resume(storage, 1) == 0
    assert "trial 3 continues trial 1: smoothed loss" in capsys.readouterr().out
    assert trials(storage)[4].user_attrs["reason"] == "given back"
    with pytest.raises(ConfigError, match="trial 3 has continued trial 1 already"):
        resume(storage, 1)
    assert len(trials(storage)) == 5


def test_an_interrupted_continuation_goes_on(storage):
    """Ctrl-C ends the command; typed again, it finishes the trial that waits, and no other one."""
    program = f"import sys, fake_study; sys.exit(fake_study.resume({str(storage)!r}, 1))"
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    process = launch("-c", program, env=os.environ | {"PYTHONPATH": path, "FAKE_SECONDS": "0.3"})
    wait_until(lambda: reporting(storage))
    process.send_signal(signal.SIGINT)
    code, out = finish(process)
    assert (code, "Traceback" in out) == (130, False), out
    assert "go on with: dropopt resume-trial 1 --study fake" in out
    with Outside(storage) as study:
        study.enqueue_trial({"lr": 0.01})
    assert resume(storage, 1) == 0
    found = trials(storage)[3:]
    assert [trial.state.name for trial in found] == ["FAIL", "COMPLETE", "WAITING"]
    assert [trial.user_attrs.get("continues") for trial in found] == [1, 1, None]


@pytest.mark.parametrize("fault", ["changed", "missing", "signal"])
def test_a_continuation_that_cannot_begin_leaves_no_trial(storage, monkeypatch, capsys, fault):
    """The data have changed, they are lost, or a signal arrives while they are loaded."""
    if fault == "signal":
        prepare = continuing.Continuing.prepare

        def interrupt(session):
            prepare(session)
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(continuing.Continuing, "prepare", interrupt)
        assert resume(storage, 1) == 143
        out = capsys.readouterr().out
        assert "trial 1 was not continued\ngo on with: dropopt resume-trial 1" in out
    else:
        monkeypatch.setenv("FAKE_DATA", fault)
        with pytest.raises((ConfigError, StudyError), match=r"have changed since it began|no such data"):
            resume(storage, 1)
    assert len(trials(storage)) == 3
