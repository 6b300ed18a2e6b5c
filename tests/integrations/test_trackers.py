"""Trackers receive the finished trials of a study with parameters, results and curves, each trial once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from unittest.mock import MagicMock

import optuna
import pytest
from optuna.trial import create_trial

import dropopt
from dropopt.integrations.trials import log_study, record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


#: The folder of the study "my study".
SLUG = "my-study-67549874"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A complete, a pruned, a failed and a running trial, in a file."""
    file = tmp_path_factory.mktemp("storage") / "study.db"
    study = optuna.create_study(study_name="my study", storage=f"sqlite:///{file}")

    def objective(trial):
        loss = trial.suggest_float("lr", 0.1, 0.2) + len(trial.suggest_categorical("pattern", ["channel", "element"]))
        trial.report(loss + 1, 1)
        trial.report(loss, 2)
        trial.set_user_attr("val_accuracy", 0.75)
        trial.set_user_attr("reason", "why")
        if trial.number:
            raise optuna.TrialPruned if trial.number == 1 else ValueError
        return loss

    study.optimize(objective, n_trials=3, catch=ValueError)
    study.ask()
    return study


def test_records_hold_what_is_logged(study):
    """Running trials are not logged; values that are not finite are left out; a study can be named."""
    seen = []
    assert log_study(study, lambda _, trial: seen.append(record_of(study, trial))) == 3
    first, second, third = seen
    assert first.params == study.trials[0].params
    assert first.metrics == {"value": study.trials[0].value, "val_accuracy": 0.75}
    assert first.curve == {1: first.metrics["value"] + 1, 2: first.metrics["value"]}
    assert (first.name, first.slug, first.tags) == ("trial-0", SLUG, {"state": "complete", "reason": "why"})
    assert second.tags["state"] == "pruned"
    assert third.tags["state"] == "fail"
    assert first.began <= first.ended
    file = study._storage._backend.engine.url.database
    assert log_study("my study", lambda *_: None, storage=file) == 3
    with pytest.raises(dropopt.ConfigError, match="no study 'mine'"):
        log_study("mine", lambda *_: None, storage=file)


def test_two_studies_never_share_a_folder():
    """Of names that differ in other characters, that are long, or that would leave the folder."""
    names = ["my study", "my-study", "my/study", "a.b-c_d", "..", ".", "", "/", "\udcff", 300 * "x", 301 * "x"]
    slugs = [record_of(optuna.create_study(study_name=name), create_trial(value=1)).slug for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[\w-][\w.-]{0,110}", slug) for slug in slugs)
    assert [slugs[number] for number in (0, 1, 3)] == [SLUG, "my-study", "a.b-c_d"]


def test_tensorboard(study, tmp_path):
    """Curves, results and hyperparameters are in event files, once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dropopt.integrations import tensorboard

    for _ in range(2):
        assert tensorboard.log_study(study, tmp_path / "logs") == 3
    (file,) = (tmp_path / "logs" / SLUG / "trial-0").iterdir()
    events = EventAccumulator(str(file)).Reload()
    value = study.trials[0].value
    assert [(e.step, e.value) for e in events.Scalars("objective")] == [
        (1, pytest.approx(value + 1)), (2, pytest.approx(value))
    ]  # fmt: skip
    assert [e.value for e in events.Scalars("result/val_accuracy")] == [0.75]
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.fixture
def mlflow_runs(tmp_path, monkeypatch):
    """A function that logs a study with MLflow: it returns the number of trials, the runs, and MLflow's client."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tracking = pytest.importorskip("mlflow.tracking")
    from dropopt.integrations import mlflow

    uri = (tmp_path / "mlruns").as_uri()
    client = tracking.MlflowClient(uri)

    def log(study):
        logged = mlflow.log_study(study, tracking_uri=uri)
        return logged, client.search_runs([client.get_experiment_by_name(study.study_name).experiment_id]), client

    return log


def test_mlflow(study, mlflow_runs):
    """One run per trial, with its curve and its times, once."""
    for _ in range(2):
        logged, runs, client = mlflow_runs(study)
        assert logged == 3
    found = {run.data.tags["trial"]: run for run in runs}
    assert sorted(found) == ["0", "1", "2"]
    first, value = found["0"], study.trials[0].value
    assert first.data.params == {name: str(given) for name, given in study.trials[0].params.items()}
    assert first.data.metrics["value"] == pytest.approx(value)
    curve = client.get_metric_history(first.info.run_id, "objective")
    assert [(point.step, point.value) for point in curve] == [(1, pytest.approx(value + 1)), (2, pytest.approx(value))]
    assert first.info.start_time == int(study.trials[0].datetime_start.timestamp() * 1000)
    assert [found[number].info.status for number in "012"] == ["FINISHED", "FINISHED", "FAILED"]


def test_mlflow_takes_parameters_of_any_name(mlflow_runs):
    """A study of another program may have names with characters that MLflow refuses."""
    study = optuna.create_study(study_name="other")
    names = "layers[0] <n>", "größe", "a/b: c-d.e", "a+b", "a*b", "a?b", "../x", "/", ".", 300 * "x", 301 * "x"
    size = optuna.distributions.IntDistribution(0, 9)
    study.add_trial(create_trial(value=1, params=dict.fromkeys(names, 3), distributions=dict.fromkeys(names, size)))
    _, (run,), _ = mlflow_runs(study)
    allowed = "layers_0_ _n_", "größe", "a/b: c-d.e", "a_b", "a_b_2", "a_b_3", "___x", "_", "__2", 250 * "x"
    assert run.data.params == dict.fromkeys((*allowed, 245 * "x" + "_2"), "3")


def test_wandb(study, tmp_path, monkeypatch):
    """Offline: one run per trial with parameters, results and curve."""
    wandb = pytest.importorskip("wandb")
    from dropopt.integrations.wandb import WandbCallback

    monkeypatch.setenv("WANDB_SILENT", "true")
    seen = []
    real = wandb.init

    def init(**options):
        run = real(**options)
        seen.append((options, run))
        return run

    summaries, update = [], wandb.sdk.wandb_summary.Summary.update
    curve, log = [], wandb.sdk.wandb_run.Run.log
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", lambda s, d, step: curve.append((d, step)) or log(s, d, step))
    monkeypatch.setattr(wandb.sdk.wandb_summary.Summary, "update", lambda s, d: summaries.append(d) or update(s, d))
    WandbCallback("tests", mode="offline", dir=tmp_path)(study, study.trials[0])
    ((options, run),) = seen
    assert (run.id, run.name, run.project, run.group) == (f"{SLUG}-0", "trial-0", "tests", "my study")
    assert dict(run.config) == study.trials[0].params
    assert summaries == [{"value": study.trials[0].value, "val_accuracy": 0.75, "state": "complete", "reason": "why"}]
    assert curve == [({"objective": value}, step) for step, value in study.trials[0].intermediate_values.items()]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert options["resume"] == "allow"


def test_nothing_is_imported_unasked():
    """``dropopt.integrations`` loads no package; a missing one gives one line with what to type."""
    packages = ["lightning", "transformers", "skorch", "ignite", "tensorboard", "mlflow", "wandb"]
    code = f"""
import json, sys
import dropopt, dropopt.integrations
loaded = [name for name in {packages} if name in sys.modules]
for name in {packages}:
    sys.modules[name] = None
from importlib import import_module
lines = []
for name in {packages}:
    try:
        import_module(f"dropopt.integrations.{{name}}")
    except dropopt.ConfigError as error:
        lines.append(str(error))
print(json.dumps([loaded, lines]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    loaded, lines = json.loads(done.stdout)
    assert loaded == []
    assert [line.partition(": ")[2] for line in lines] == [f"pip install 'dropopt[{name}]'" for name in packages]


def test_wandb_takes_a_reason_of_any_length(monkeypatch):
    """A tag has 1 to 64 characters. A study of another program may have a longer attribute, or an empty one."""
    wandb = pytest.importorskip("wandb")
    from dropopt.integrations.wandb import WandbCallback

    study, tags = optuna.create_study(), []
    for reason in ("why " * 20, ""):
        study.add_trial(optuna.trial.create_trial(value=1, user_attrs={"reason": reason}))

    def init(**options):
        tags.append(wandb.Settings(run_tags=options["tags"]).run_tags)
        return MagicMock()

    monkeypatch.setattr(wandb, "init", init)
    for trial in study.trials:
        WandbCallback("tests")(study, trial)
    assert tags == [("complete", "why " * 16), ("complete",)]
