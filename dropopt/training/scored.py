"""Runs with further scores of their network: on the validation split, or once, on the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from dropopt.config import RunConfig
from dropopt.training.data.dataset import Dataset
from dropopt.training.evaluate import calibration_of, evaluate
from dropopt.training.fit import OnEpoch
from dropopt.training.pipeline import train_run
from dropopt.training.results import EpochReport, TrainResult
from dropopt.training.task import task_of


def train_and_score(
    run: RunConfig,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Do as :func:`train_run`, and add the calibration error on the validation split to the result's scores."""
    result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=on_resume)
    if not _is_classification(run, data):
        return result, model, data
    return replace(result, scores={"val_ece": calibration_of(model, data.validation, run.train)}), model, data


def score_on_test(
    run: RunConfig,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Do as :func:`train_run`, and evaluate the network on the test split.

    With the checkpoint of a finished training, nothing is trained. The objective of the result is what the task is
    judged by, on the test split; the scores have the loss and the metric as well.
    """
    result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=on_resume)
    task = task_of(run.task)
    loss, metric = evaluate(model, data.test, run.train, task)
    found = {"test_loss": loss, "test_accuracy": metric}
    if _is_classification(run, data):
        found["test_ece"] = calibration_of(model, data.test, run.train)
    return replace(result, objective=task.cost(loss, metric), scores=found), model, data


def _is_classification(run: RunConfig, data: Dataset) -> bool:
    """Whether the outputs are the logits of one class for each sample, so that a calibration error is defined."""
    return task_of(run.task).is_plain and bool(data.classes)
