"""The trials of a study in MLflow: one experiment for the study, one run for each trial."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dropopt.integrations import trials
from dropopt.integrations.missing import missing

try:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient
except ImportError as error:
    raise missing("mlflow", error) from None

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: The tag that holds the number of a trial.
_NUMBER = "trial"
#: Characters of the longest name of a parameter that MLflow allows.
_LONGEST = 250


class MlflowCallback:
    """Logs each finished trial as a run: parameters, results, the learning curve, and the times of the trial.

    A trial that has a run is skipped. Characters that MLflow does not allow in the names of parameters are replaced by
    ``_``, and parameters that would then have one name are numbered.

    Args:
        tracking_uri: Where MLflow stores runs. Default: MLflow's own setting.
        experiment: The name of the experiment. Default: the name of the study.

    Example:
        ``study.optimize(objective, callbacks=[MlflowCallback()])``
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        self._client = MlflowClient(tracking_uri)
        self._experiment = experiment

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Log one trial."""
        record, client = trials.record_of(study, trial), self._client
        experiment = self._experiment_id(self._experiment or record.study)
        if client.search_runs([experiment], f"tags.{_NUMBER} = '{record.number}'", max_results=1):
            return
        began = None if record.began is None else int(record.began * 1000)
        ended = None if record.ended is None else int(record.ended * 1000)
        run = client.create_run(experiment, start_time=began, run_name=record.name).info.run_id
        when = ended or 0
        metrics = [Metric(name, value, when, 0) for name, value in record.metrics.items()]
        metrics += [Metric("objective", value, when, epoch) for epoch, value in record.curve.items()]
        names = _allowed(record.params)
        params = [Param(name, str(value)) for name, value in zip(names, record.params.values(), strict=True)]
        for start in range(0, len(metrics), 500):  # limits of MLflow for one call
            client.log_batch(run, metrics=metrics[start : start + 500])
        for start in range(0, len(params), 100):
            client.log_batch(run, params=params[start : start + 100])
        tags = [RunTag(name, value) for name, value in {**record.tags, _NUMBER: str(record.number)}.items()]
        client.log_batch(run, tags=tags)
        status = "FAILED" if record.tags["state"] == "fail" else "FINISHED"
        client.set_terminated(run, status, end_time=ended)

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        identifier: str = self._client.create_experiment(name) if found is None else found.experiment_id
        return identifier


def _allowed(names: Iterable[str]) -> list[str]:
    """Names that MLflow allows, each once. It refuses long ones and those that are no plain paths, as ``../x``."""
    found: list[str] = []
    for name in names:
        allowed = re.sub(r"[^\w.\-: /]", "_", name)
        if posixpath.normpath(allowed) != allowed or allowed.startswith((".", "/")):
            allowed = re.sub(r"[./]", "_", allowed)
        allowed = allowed[:_LONGEST]
        number = 1
        while allowed in found:
            number += 1
            allowed = f"{allowed[: _LONGEST - 5].removesuffix(f'_{number - 1}')}_{number}"
        found.append(allowed)
    return found


def log_study(study: optuna.Study | str, *, tracking_uri: str | None = None, storage: str | None = None) -> int:
    """Log the finished trials of a study; see :func:`dropopt.integrations.trials.log_study`."""
    return trials.log_study(study, MlflowCallback(tracking_uri), storage=storage)
