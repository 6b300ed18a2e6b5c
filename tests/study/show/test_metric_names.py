"""Studies whose task has a metric of the user's own: no text calls it accuracy."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from shown_study import shown_study

from dropopt.config import RunConfig, TaskConfig
from dropopt.study.command.train import _plain, _scores
from dropopt.study.report.build import build
from dropopt.study.show import page
from dropopt.study.show.status import show_status
from dropopt.study.show.summary import Outcome, show_summary
from dropopt.study.show.trials import rows, table
from dropopt.study.store.queries import judged, value_name

BASE = RunConfig.parse(
    {"train": {"epochs": 6}, "task": {"loss": "mse_loss", "metric": "mine:r2", "objective": "metric"}}
)


def printed(draw):
    """What ``draw`` prints on a console."""
    console = Console(file=io.StringIO(), width=150)
    draw(console)
    return console.file.getvalue()


def test_every_text_names_the_metric():
    """The page, the report, the summary, the list of trials and the status."""
    study = shown_study(12, base=BASE.model_dump(mode="json"))
    outcome = Outcome(12, None, None, "sqlite:///a.db", "", "dropopt run mine.py")
    texts = [
        page.build(study).note,
        re.sub(r"<style.*?</style>", "", build(study, "").html, flags=re.DOTALL),
        printed(lambda console: show_summary(console, study, outcome)),
        printed(lambda console: console.print(table("photos", rows(study), "r2"))),
        printed(lambda console: show_status(console, study._storage, "a.db")),
    ]
    for text in texts:
        assert "r2" in text
        assert "accuracy" not in text.lower()
    assert "validation r2 against cost" in "".join(page.build(study).figures.values()).lower()
    assert value_name(study) == "1 - r2"


@pytest.mark.parametrize(
    ("task", "by", "word", "cost"),
    [
        ({}, "accuracy", "error", 0.25),
        ({}, "loss", "loss", 2.0),
        ({"metric": "mine:r2"}, "accuracy", "1 - r2", 0.25),
        ({"metric": "mine:worst", "direction": "minimize"}, "accuracy", "worst", 0.75),
        ({"metric": "loss"}, "accuracy", "loss", 2.0),
    ],
)
def test_what_is_minimised(task, by, word, cost):
    """Also where a study that was searched by its loss is confirmed by its metric."""
    config = TaskConfig(**task)
    assert (config.word(by), config.cost(2.0, 0.75, by)) == (word, cost)


def test_a_confirmation_by_a_metric_to_minimise_is_judged_by_it():
    task = {"loss": "mse_loss", "metric": "mine:worst", "direction": "minimize"}
    study = shown_study(4, base=RunConfig.parse({"task": task}).model_dump(mode="json"))
    trial = study.trials[-1]
    assert judged(trial, "accuracy", study) == trial.user_attrs["val_accuracy"]


def test_train_gives_a_standard_error_to_accuracies_only():
    """A metric above 1 has none, and is named."""
    from types import SimpleNamespace

    from dropopt.study.after.retrain import Estimate

    shown = _scores(Estimate(5.0, 1.0, 10, shares=False), TaskConfig(metric="mine:mae"))
    assert shown == "mae 5.0000, loss 1.0000 (n = 10)"
    assert _scores(Estimate(1.0, 1.0, 10, shares=False), TaskConfig(metric="loss")) == "loss 1.0000 (n = 10)"
    assert _scores(Estimate(0.9, 1.0, 10), TaskConfig()).startswith("accuracy 0.9000 +- ")
    estimate = Estimate(5.0, 1.0, 10, shares=False)
    done = SimpleNamespace(
        result=SimpleNamespace(best_epoch=1, history=[1]), validation=estimate, test=estimate, run=BASE
    )
    found = _plain(done, None)
    assert (found["metric"], found["test"]["standard_error"], found["test"]["accuracy"]) == ("r2", None, 5.0)
