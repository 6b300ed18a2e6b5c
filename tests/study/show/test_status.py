"""The list of studies: studies of other programs, narrow terminals and JSON."""

import io
import json
import re

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from printed import printed
from rich.console import Console

import dropopt
from dropopt.config import ConfigError
from dropopt.study.command.export import export
from dropopt.study.show.status import rows, show_status
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import CLASSES, COMMAND
from dropopt.study.store.queries import choose, optimised


@pytest.fixture(name="storage")
def _storage():
    """Studies of other programs: one to maximise, one with two objectives, and one with many states."""
    storage = optuna.storages.InMemoryStorage()
    maximised = optuna.create_study(study_name="accuracy", storage=storage, direction="maximize")
    for value in (0.2, 0.9, float("inf"), 0.5):
        maximised.add_trial(create_trial(value=value))
    several = optuna.create_study(study_name="several", storage=storage, directions=["minimize", "maximize"])
    several.add_trial(create_trial(values=[1.0, 2.0]))
    long = optuna.create_study(study_name="a-long-name-" * 6 + "[red]", storage=storage)
    for state in (TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE) * 40:
        complete = state == TrialState.COMPLETE
        long.add_trial(create_trial(state=state, value=1e6 if complete else None, user_attrs={"val_accuracy": 0.5}))
    return storage


def test_the_best_value_of_each_study(storage):
    """The maximum if the study maximises; none, without an error, if it has several objectives."""
    found = {row.study: row.plain() for row in rows(storage)}
    assert found["accuracy"]["best"] == {"trial": 1, "value": 0.9, "val_accuracy": None}
    assert found["several"]["best"] is None
    assert found["several"]["objectives"] == ["minimize", "maximize"]
    assert found["several"]["trials"]["complete"] == 1
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ConfigError, match="study 'several' has several objectives, so no best trial; give --trial"):
        choose(optuna.load_study(study_name="several", storage=storage), None)


def test_the_accuracy_is_that_of_the_split_of_the_value():
    """A study of tests has the test loss and the test accuracy; JSON names the accuracy that it gives."""
    study = optuna.create_study(study_name="mine-tested")
    study.add_trial(create_trial(value=0.7, user_attrs={"val_accuracy": 0.9, "test_accuracy": 0.625}))
    (row,) = rows(study._storage)
    assert row.cells()[3] == "0.6250"
    assert row.plain()["best"] == {"trial": 0, "value": 0.7, "val_accuracy": 0.9}


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_fits_80_columns(storage, width):
    """Long cells are wrapped, not cut off, on any console."""
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.soft_wrap = True
    show_status(console, storage, "sqlite:///x.db")
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "objectives" in file.getvalue()
    assert "…" not in file.getvalue()
    assert "red]" in file.getvalue().replace("\n", "")


def test_a_trial_of_several_objectives_is_exported(tmp_path, capsys):
    """If its number is given: it has no single value to print."""
    url = f"sqlite:///{tmp_path}/a.db"
    study = optuna.create_study(study_name="several", storage=url, directions=["minimize", "maximize"])
    study.optimize(lambda trial: (trial.suggest_float("r0", 0.1, 0.7), 1.0), n_trials=1)
    export(study="several", trial=0, output=tmp_path / "best.yaml", storage=url)
    assert capsys.readouterr().out.startswith(f"{tmp_path}/best.yaml: study several, trial 0\n")
    assert dropopt.load(tmp_path / "best.yaml").run.engine.r0 == study.trials[0].params["r0"]


def test_a_study_of_a_later_version_hides_no_others(storage, capsys):
    """A task that this version does not know is told below the table, and by name where only that study is wanted."""
    later = optuna.create_study(study_name="later", storage=storage)
    later.set_user_attr("base", {"data": {"name": "digits"}, "model": {"name": "small"}, "task": {"focal": 2}})
    later.add_trial(create_trial(value=0.5))
    found = {row.study: row.plain() for row in rows(storage)}
    assert (found["later"]["trials"]["complete"], found["later"]["best"]) == (1, None)
    assert found["accuracy"]["best"]["trial"] == 1
    show_status(Console(soft_wrap=True), storage, "s.db")
    told = "study 'later' has a task that this version of dropopt does not know: unknown setting 'focal'"
    assert told in capsys.readouterr().out
    with pytest.raises(ConfigError, match=told):
        optimised(later)


def test_a_study_with_waiting_trials_says_how_it_is_resumed():
    """By the command that it was last run with; a study of another program by one for any study."""
    storage = optuna.storages.InMemoryStorage()
    for name, attributes in (("mine", {COMMAND: "dropopt run mine.py --set train.epochs=60"}), ("other", {})):
        study = optuna.create_study(study_name=name, storage=storage)
        study.enqueue_trial({"r0": 0.2})
        for key, value in attributes.items():
            study.set_user_attr(key, value)
    assert [row.resume for row in rows(storage)] == ["dropopt run mine.py --set train.epochs=60", "dropopt run"]


def test_one_study_may_be_listed_alone(storage):
    """As rows and as a table."""
    assert [row.study for row in rows(storage, "several")] == ["several"]
    file = io.StringIO()
    show_status(Console(file=file, width=80), storage, "sqlite:///x.db", "accuracy")
    assert "several" not in file.getvalue()


def test_smoothed_losses_are_called_so():
    """In the heading, or beside each where studies of other programs have others."""
    storage = optuna.storages.InMemoryStorage()
    for name, metric in (("mine", "validation loss (smoothed)"), ("other", "loss")):
        study = optuna.create_study(study_name=name, storage=storage)
        name_metric(study, metric)
        study.set_user_attr(CLASSES, 10)
        study.add_trial(create_trial(value=0.5))
    alone = printed(lambda console: show_status(console, storage, "s.db", "mine"))
    both = printed(lambda console: show_status(console, storage, "s.db"))
    assert "(smoothed)" in alone
    assert "│ loss 0.5000" in alone
    assert "(smoothed)" not in both
    assert re.search("│ smoothed loss .*│ loss 0.5000", both, re.DOTALL)
