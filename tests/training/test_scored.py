"""Further scores of a run: what is passed on, and what is measured on which split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toy import toy

from dropopt.config import RunConfig
from dropopt.training import scored
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.split import Split
from dropopt.training.evaluate import calibration_of, evaluate
from dropopt.training.results import TrainResult
from dropopt.training.task import task_of

TASKS = {
    "classes": {},
    "error": {"objective": "metric"},
    "numbers": {"loss": "mse_loss", "metric": "loss"},
    "masks": {},
}


@pytest.mark.parametrize("function", [scored.train_and_score, scored.score_on_test])
@pytest.mark.parametrize("task", TASKS)
def test_scores_of_a_run(monkeypatch, function, task):
    """The calibration error on the validation split, or loss, metric and calibration error on the test split."""
    torch.manual_seed(0)
    data, model = toy(), nn.Sequential(nn.Flatten(), nn.Linear(128, 4))
    run = RunConfig.parse({"train": {"device": "cpu"}, "task": TASKS[task]})
    if task == "numbers":
        for split in data.splits().values():
            object.__setattr__(split, "labels", torch.rand(len(split), 4))
    if task == "masks":  # a class for each pixel
        model = nn.Conv2d(2, 4, 1)
        masks = {name: Split(one.images, torch.randint(0, 4, (len(one), 8, 8))) for name, one in data.splits().items()}
        data = Dataset("masks", (), **masks)
    trained = TrainResult(0.4, 2, 0.3, 0.9, [], objective=0.125)
    given = []

    def train_run(*arguments, **options):
        given.append((arguments, options))
        return trained, model, data

    monkeypatch.setattr(scored, "train_run", train_run)
    result, *rest = function(run, print, Path("c"), len)
    assert given == [((run, print), {"checkpoint": Path("c"), "on_resume": len})]
    assert rest == [model, data]
    assert (result.best_epoch, result.smoothed_loss, result.best_val_loss) == (2, 0.4, 0.3)
    plain = task in ("classes", "error")
    if function is scored.train_and_score:
        assert result.objective == 0.125
        assert result.scores == ({"val_ece": calibration_of(model, data.validation, run.train)} if plain else {})
    else:
        loss, metric = evaluate(model, data.test, run.train, task_of(run.task))
        expected = {"test_loss": loss, "test_accuracy": metric}
        expected |= {"test_ece": calibration_of(model, data.test, run.train)} if plain else {}
        assert result.scores == expected
        assert result.objective == (1 - metric if task == "error" else loss)
