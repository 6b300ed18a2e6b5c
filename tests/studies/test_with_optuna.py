"""The plain Optuna script and the packages in OptunaHub's layout work as they are documented."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
import pytest
import yaml

import dropopt
from dropopt.owncode import load_file
from dropopt.study import efficacy_report
from dropopt.study.after.export import exported
from dropopt.study.store.queries import choose

FOLDER = Path(__file__).parents[2] / "studies" / "with_optuna"
HUB = FOLDER / "optunahub"
PACKAGES = sorted(path.parent.relative_to(HUB).as_posix() for path in HUB.glob("*/*/__init__.py"))


@pytest.fixture(scope="module")
def hub():
    """The package optunahub."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("optunahub")


def test_the_plain_script_runs_and_can_be_exported(tmp_path):
    """Trials report losses, continue in the same storage, and their configurations can be exported."""
    script = load_file("plain_optuna_script", FOLDER / "plain_optuna.py")
    storage = f"sqlite:///{tmp_path}/plain.db"
    script.main(storage, n_trials=1, epochs=2)
    study = script.main(storage, n_trials=1, epochs=2)
    assert [sorted(trial.intermediate_values) for trial in study.trials] == [[1, 2]] * 2
    assert all(trial.value < 3 for trial in study.trials)
    assert all("efficacy" in trial.user_attrs for trial in study.trials)  # the sampler's stamp
    configuration, provenance = exported(study, choose(study, None), "")
    run = configuration.run
    assert run.engine.r0 == study.best_params["r0"]
    dropopt.export.save(tmp_path / "best.yaml", run, provenance)
    assert dropopt.load(tmp_path / "best.yaml").run == run
    assert efficacy_report(study)


def test_the_two_packages_are_there():
    assert PACKAGES == ["benchmarks/dropout_engine", "samplers/dropout_blend"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_the_files_and_the_front_matter_of_the_registry(package):
    """LICENSE, README with front matter of strings, example; the tags name the category."""
    folder = HUB / package
    assert {path.name for path in folder.iterdir()} >= {"LICENSE", "README.md", "__init__.py", "example.py"}
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert list(facts) == ["author", "title", "description", "tags", "optuna_versions", "license"]
    assert package.split("/")[0].removesuffix("s") in facts["tags"]
    assert facts["license"] == "MIT License"
    assert all(f"## {title}" in text for title in ("Abstract", "APIs", "Installation", "Example"))
    assert f'optunahub.load_module("{package}")' in (folder / "example.py").read_text()


def test_the_sampler_and_its_example(hub, monkeypatch):
    module = hub.load_local_module("samplers/dropout_blend", registry_root=str(HUB))
    monkeypatch.setattr(hub, "load_module", lambda name: module)
    example = load_file("dropout_blend_example", HUB / "samplers/dropout_blend/example.py")
    study = optuna.create_study(sampler=module.EfficacySampler(blend=example.NAMES, seed=0))
    study.optimize(example.objective, n_trials=30)
    assert study.best_value < 0.02


def test_the_problem_prunes_and_evaluates(hub):
    """The value of a trial is that of its parameters; a pruned trial stops after an epoch; hyperparameters are all."""
    problem = hub.load_local_module("benchmarks/dropout_engine", registry_root=str(HUB)).Problem("dropout", epochs=2)
    assert list(problem.search_space) == ["kind", "p", "schedule", "lr", "weight_decay", "sites", "block_size"]

    class Never(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    study = optuna.create_study(directions=problem.directions, pruner=Never())
    values = {name: space.choices[0] for name, space in problem.search_space.items() if hasattr(space, "choices")}
    values |= {"kind": "dropout2d", "p": 0.2, "lr": 0.05, "weight_decay": 1e-4, "block_size": 3}
    for _ in range(2):
        study.enqueue_trial(values)
    study.optimize(problem, n_trials=2)
    first, second = study.trials
    assert first.value == problem.evaluate(values)
    assert "block_size" not in first.params  # without effect for dropout2d
    assert second.state == optuna.trial.TrialState.PRUNED
    assert list(second.intermediate_values) == [1]
