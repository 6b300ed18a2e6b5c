"""A study that is run from Python returns its results; its task may be any, and old studies have the default one."""

from __future__ import annotations

import optuna
import other_tasks
import pytest

import dropopt
from dropopt.config import ConfigError, RunConfig
from dropopt.study import Space, Study
from dropopt.study.store.experiment import check, create


def test_a_study_of_a_regression_returns_its_results(tmp_path, monkeypatch):
    """Trials, the best configuration, and its functions by name; the same call continues the study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path))
    study = Study(
        name="regression",
        data=other_tasks.regression,
        model=other_tasks.image_network,
        task={
            "loss": other_tasks.halved,
            "metric": other_tasks.worst,
            "direction": "minimize",
            "objective": "metric",
        },
        train={"epochs": 2, "batch_size": 16, "device": "cpu"},
        space="dropout",
        n_trials=2,
    )
    result = study.run(storage="study.db", n_jobs=1)
    assert repr(result).startswith("StudyResult('regression', 2 trials, best worst ")
    assert result.best_value == min(trial.value for trial in result.trials)
    assert result.best.run.task.metric == "other_tasks:worst"
    result.save("best.yaml")
    assert dropopt.load("best.yaml") == result.best
    assert "task:" in (tmp_path / "best.yaml").read_text()
    again = Study(**{**study.model_dump(), "n_trials": 2}).run(storage="study.db", n_jobs=1)
    assert len(again.trials) == 2


def test_functions_of_a_task_must_be_importable():
    with pytest.raises(ConfigError, match=r"study: task.loss must be a function or a class at the top level of a file"):
        Study(name="one", task={"loss": lambda outputs, targets: outputs.mean()})


def test_a_study_from_before_tasks_is_the_same_experiment():
    """Settings that did not exist when a study was stored have their defaults; others still differ."""
    space = Space.load("dropout")
    base = space.base(RunConfig())
    study, _ = create(optuna.storages.InMemoryStorage(), "old", space, base, {}, known=False)
    stored = study.user_attrs["base"]
    study.set_user_attr("base", {key: value for key, value in stored.items() if key != "task"})
    study.ask()
    check(study, space, base)
    changed = RunConfig.parse(base.model_dump() | {"task": {"objective": "metric"}})
    with pytest.raises(ConfigError, match=r"was created with task.objective = loss, not metric"):
        check(study, space, changed)
