"""Runs with further scores of their network: on the validation split, or once, on the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from dropopt.config import RunConfig
from dropopt.training.data.dataset import Dataset
from dropopt.training.evaluate import score
from dropopt.training.fit import OnEpoch
from dropopt.training.pipeline import train_run
from dropopt.training.results import EpochReport, TrainResult


def train_and_score(
    run: RunConfig,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Do as :func:`train_run`, and add the calibration error on the validation split to the result's scores."""
    result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=on_resume)
    scores = score(model, data.validation, run.train)
    return replace(result, scores={"val_ece": scores.ece}), model, data


def score_on_test(
    run: RunConfig,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Do as :func:`train_run`, and evaluate the network on the test split.

    With the checkpoint of a finished training, nothing is trained. The objective of the result is the loss on the test
    split, or the error if accuracy is optimised; the scores have all of them.
    """
    result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=on_resume)
    scores = score(model, data.test, run.train)
    objective = scores.loss if run.train.optimise == "loss" else 1 - scores.accuracy
    found = {"test_loss": scores.loss, "test_accuracy": scores.accuracy, "test_ece": scores.ece}
    return replace(result, objective=objective, scores=found), model, data
