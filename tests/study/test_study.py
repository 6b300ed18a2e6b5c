"""A study: what is stored, what is pruned, and what happens when a trial, a child process or the worker dies."""

import signal
import subprocess
import sys

import fake_study
import optuna
import pytest
from fake_study import trials
from optuna.trial import TrialState
from outside import SCRIPT, Outside, finish, reporting, start
from processes import alive, children, wait_until

from dropopt.config import ConfigError, RunConfig
from dropopt.seeds import derived_seed
from dropopt.study.define.space import Space
from dropopt.study.search.samplers import STARTUP_TRIALS, make_sampler
from dropopt.study.store.trial_budget import budget_used


@pytest.fixture
def storage(here):
    """A storage file in a temporary working folder."""
    return "study.log"


def test_a_trial_stores_what_is_needed_to_repeat_it(storage):
    """A trial holds its value, accuracy, seed and whole configuration; epochs are reported from 1."""
    assert fake_study.run(storage, 1, n_trials=3) == 0
    for trial in trials(storage):
        assert trial.state == TrialState.COMPLETE
        assert sorted(trial.intermediate_values) == list(range(1, 9))
        run = RunConfig.parse(trial.user_attrs["config"])
        assert run.train.seed == trial.user_attrs["seed"] == derived_seed(0, "train", trial.number, bits=31)
        assert run.engine.r0 == trial.params["r0"]
        assert run.train.lr == trial.params["lr"]
        assert trial.value == trial.intermediate_values[8]
        assert trial.user_attrs["val_accuracy"] == pytest.approx(1 / (1 + trial.value))
        assert (trial.user_attrs["best_epoch"], trial.user_attrs["seconds"] > 0) == (8, True)


def test_accuracy_is_optimised_if_the_study_says_so(storage):
    """The setting is stored with the study, named, and may not change; a study without it optimised the loss."""
    assert fake_study.run(storage, 1, n_trials=2) == 0
    with Outside(storage) as study:
        old = dict(study.user_attrs["base"])
        del old["task"]  # as in a study that is older than the setting
        study.set_user_attr("base", old)
    assert fake_study.run(storage, 1, n_trials=3, optimise="loss") == 0
    with pytest.raises(ConfigError, match=r"optimises the loss, not the accuracy \(--optimise\); give another"):
        fake_study.run(storage, 1, n_trials=4, optimise="accuracy")
    assert fake_study.run(storage, 1, n_trials=2, name="other", optimise="accuracy") == 0
    with Outside(storage, "other") as study:
        assert study.metric_names == ["validation error (smoothed)"]


def test_the_same_seed_and_one_job_give_the_same_study_twice(tmp_path, storage):
    """Parameters, values, reports and states are equal; another seed's are not."""

    def facts(seed, file, n_trials=14):
        fake_study.run(file, n_jobs=1, n_trials=n_trials, seed=seed)
        return [(t.state, t.params, t.value, t.intermediate_values) for t in trials(file)]

    one, two, other = facts(3, "a.log"), facts(3, "b.db"), facts(4, "c.log", 1)
    assert one == two
    assert one[:1] != other
    assert {state for state, *_ in one} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_the_same_command_continues_to_the_target(here, capsys):
    """A larger target adds trials that do not repeat the first draws; a target that is reached adds none.

    The only writer of a file has the same seed each time, and the number of trials is added to it. What loading the
    data has noticed is printed.
    """
    storage = "sqlite:///study.db"
    fake_study.run(storage, n_jobs=1, n_trials=3)
    assert "note: 2 of 9 validation images are exact copies of train images" in capsys.readouterr().out
    fake_study.run(storage, n_jobs=1, n_trials=6)
    found = trials(storage)
    assert len(found) == 6
    assert len({trial.params["r0"] for trial in found}) == 6
    capsys.readouterr()
    fake_study.run(storage, n_jobs=1, n_trials=6)
    assert "it already has 6 trials; to go on, give --n-trials 12" in capsys.readouterr().out
    assert len(trials(storage)) == 6


def test_a_different_experiment_under_the_same_name_is_refused(storage):
    """The error names the difference, and no trial is added."""
    fake_study.run(storage, 1, n_trials=2)
    with pytest.raises(ConfigError, match=r"study 'fake' exists and was created with train.epochs = 8, not 9"):
        fake_study.run(storage, 1, n_trials=4, train={"epochs": 9})
    assert len(trials(storage)) == 2


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("raise", "Broken", "lr is too high"),
        ("kill", "killed (signal 9), probably out of memory", "its process was killed (signal 9)"),
    ],
)
def test_a_failing_trial_is_recorded_and_the_next_one_runs(storage, monkeypatch, fault, reason, message):
    """However a trial fails, the reason is stored, the other trials run, and the failed trial counts."""
    monkeypatch.setenv("FAKE_FAULT", fault)
    assert fake_study.run(storage, n_trials=6) == 0
    found = trials(storage)
    failed = [trial for trial in found if trial.state == TrialState.FAIL]
    assert len(found) == 6
    assert 0 < len(failed) < 6
    assert failed == [trial for trial in found if trial.params["lr"] >= 0.07]
    for trial in failed:
        assert (trial.user_attrs["reason"], trial.user_attrs["message"]) == (reason, message)
    if fault == "raise":
        assert "Broken: lr is too high" in failed[0].user_attrs["trace"]


def test_a_signal_ends_a_study_cleanly(tmp_path, monkeypatch):
    """No trial or child is left running, the exit code gives the signal, and the same command continues the study."""
    storage = f"sqlite:///{tmp_path}/s.db"
    process = start(storage, 2, n_trials=4)
    wait_until(lambda: reporting(storage))
    pids = children(process.pid)
    process.send_signal(signal.SIGINT)
    code, out = finish(process)
    assert code == 130, out
    assert "go on   dropopt run fake --n-trials 4\n" in out
    assert (len(pids), alive(pids)) == (2, [])
    found = trials(storage)
    stopped = [trial for trial in found if trial.user_attrs.get("reason") == "interrupted"]
    assert {trial.state for trial in stopped} == {TrialState.FAIL}
    assert all(trial.state.is_finished() for trial in found)
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert fake_study.run(storage, n_trials=4) == 0
    found = trials(storage)
    assert budget_used(found) == 4
    assert len(found) == 4 + len(stopped)


def test_children_have_one_thread_and_do_not_run_the_script(tmp_path):
    """A script without ``if __name__ == "__main__"`` is not executed again in child processes."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "open('ran', 'a').write('x')\n"
        "import fake_study\n"
        "fake_study.run(None, 2, n_trials=2)\n"
    )
    line = [sys.executable, script]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").read_text() == "x"
    assert "a model that prints" not in done.stdout


@pytest.mark.parametrize("pruner", ["forecast", "hyperband"])
def test_pruners_stop_poor_trials(storage, pruner):
    """They end before their last epoch, by a rule of Optuna or of dropopt; the others differ in their arguments."""
    fake_study.run(storage, 1, n_trials=25, pruner=pruner, sampler="random")
    found = trials(storage)
    pruned = [trial for trial in found if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(max(trial.intermediate_values) < 8 and trial.user_attrs["val_accuracy"] > 0 for trial in pruned)


@pytest.mark.parametrize("space", ["compact", "dropout"])
@pytest.mark.parametrize("sampler", ["auto", "tpe", "gp", "cmaes", "random"])
def test_samplers_work_on_shipped_spaces(sampler, space):
    """Each sampler suggests all parameters of each space, also after its random start, without a warning."""
    found = Space.load(space)
    study = optuna.create_study(sampler=make_sampler(sampler, found, seed=1))
    for _ in range(13):
        trial = study.ask()
        run = found.suggest(trial, 10)
        study.tell(trial, run.train.lr)
    searched = {parameter.name for parameter in found.parameters if not parameter.when}
    assert all(searched <= trial.params.keys() for trial in study.trials)
    assert len({trial.params["lr"] for trial in study.trials}) >= STARTUP_TRIALS
