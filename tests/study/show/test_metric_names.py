"""Studies whose task has a metric of the user's own: no text calls it accuracy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
import torch
from confirmed_arms import arm
from printed import printed
from shown_study import shown_study

from dropopt.config import RunConfig, TaskConfig
from dropopt.integrations.trials import record_of
from dropopt.study.after.export import exported
from dropopt.study.after.keep import Keeper
from dropopt.study.after.retrain import Estimate
from dropopt.study.command.train import _plain, _scores
from dropopt.study.confirm.comparison import compare_arms
from dropopt.study.confirm.intervals import paired
from dropopt.study.confirm.results import Confirmation, _verdict
from dropopt.study.report.build import build
from dropopt.study.show import page
from dropopt.study.show.artifacts import curves_csv
from dropopt.study.show.comparison import show_comparison
from dropopt.study.show.confirmation import show_confirmation
from dropopt.study.show.efficacy import efficacy_report
from dropopt.study.show.formatting import format_score
from dropopt.study.show.next_lines import Resume
from dropopt.study.show.series import cost
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.status import rows as status_rows
from dropopt.study.show.status import show_status
from dropopt.study.show.summary import Outcome, show_summary
from dropopt.study.show.trials import rows, table
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import BASE as BASE_KEY
from dropopt.study.store.scale import Scale
from dropopt.training.results import EpochReport

BASE = RunConfig.parse(
    {"train": {"epochs": 6}, "task": {"loss": "mse_loss", "metric": "mine:r2", "objective": "metric"}}
)


def read_once(monkeypatch, study):
    """Let everything that shows ``study`` share one snapshot of it, whose effects are estimated once."""
    shot = Snapshot.of(study)
    monkeypatch.setattr(Snapshot, "of", lambda _: shot)
    return study


def test_every_text_shows_the_metric_and_not_what_is_minimised(monkeypatch):
    """The page, the report, the summary, the list of trials and the status: r2, which is 1 - the stored value."""
    study = read_once(monkeypatch, shown_study(12, base=BASE.model_dump(mode="json")))
    outcome = Outcome(None, None, "sqlite:///a.db", "", Resume("dropopt run mine.py", 12))
    built = page.build(study)
    texts = [
        built.note,
        re.sub(r"<style.*?</style>", "", build(study, "").html, flags=re.DOTALL),
        printed(lambda console: show_summary(console, study, outcome)),
        printed(lambda console: console.print(table("photos", rows(study), "r2", Scale.of(study)))),
        printed(lambda console: show_status(console, study._storage, "a.db")),
    ]
    for text in texts:
        assert "r2" in text
        assert "accuracy" not in text.lower()
        assert "1 - r2" not in text
        assert f"{1 - study.best_value:.4f}" in text
        assert f"{study.best_value:.4f}" not in text
    for text in texts[:3]:  # those with a table of anchors: how far the best trial's r2 is above the anchor's
        assert all(
            f" {trial.value - study.best_value:+.4f} " in re.sub(r"<[^>]*>", " ", text) for trial in study.trials[:2]
        )
    assert "the best trial's r2 is" in texts[0]
    assert "above that of the best anchor" in texts[0]
    curves = json.loads(built.figures["dropopt-curves"])
    assert curves["layout"]["yaxis"]["title"]["text"] == "validation r2 (smoothed)"
    assert curves["data"][-1]["y"][-1] == pytest.approx(1 - study.best_value, abs=1e-4)
    heading, *_, last = curves_csv(study.best_trial, BASE.task).splitlines()
    assert heading.startswith("epoch,smoothed_r2,val_loss,val_r2,")
    assert float(last.split(",")[1]) == 1 - study.best_value
    assert record_of(study, study.best_trial).metrics["val_r2"] == study.best_trial.user_attrs["val_accuracy"]
    assert "r2 against cost" in "".join(built.figures.values()).lower()


@pytest.mark.parametrize(
    ("task", "score", "way"),
    [
        ({}, "validation accuracy", "higher is better"),
        ({"metric": "mine:r2", "objective": "metric"}, "validation r2", "higher is better"),
        ({"metric": "mine:worst", "direction": "minimize"}, "validation worst", "lower is better"),
    ],
)
def test_the_chart_of_costs_says_which_scores_are_better(task, score, way):
    """Of the metric that it shows, not of the value that the study minimises."""
    study = shown_study(4, base=RunConfig.parse({"task": task}).model_dump(mode="json"))
    found = cost(Snapshot.of(study))
    assert (found.score, found.way) == (score, way)
    scores = {point.trial: point.score for point in found.points}
    assert scores == pytest.approx({one.number: one.user_attrs["val_accuracy"] for one in study.trials}, rel=1e-4)


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


def test_values_as_they_are_shown():
    """No negative zero; of large and small values a column keeps the digits."""
    dice = Scale("dice", maximise=True, complement=True)
    for show, texts in (
        (dice.text, {1 + 1e-9: "0.0000", 0.25: "0.7500", None: "-"}),
        (Scale().text, {-1e-9: "0.0000", 9999999.0: "9999999.0000", -8.94e15: "-8.940e+15", 1.1e22: "1.100e+22"}),
        (format_score, {4.4810626e13: "4.481e+13", 2.5e-5: "0.0000250", 0.5: "0.5000", 0.0: "0.0000", None: "-"}),
    ):
        assert {value: show(value) for value in texts} == texts


def test_train_gives_a_standard_error_to_accuracies_only():
    """A metric above 1 has none, and is named."""
    shown = _scores(Estimate(5.0, 1.0, 10, shares=False), TaskConfig(metric="mine:mae"))
    assert shown == "mae 5.0000, loss 1.0000 (n = 10)"
    shown = _scores(Estimate(2.5e-5, 1.0, 10, shares=False), TaskConfig(metric="mine:mae"))
    assert shown == "mae 0.0000250, loss 1.0000 (n = 10)"
    assert _scores(Estimate(1.0, 1.0, 10, shares=False), TaskConfig(metric="loss")) == "loss 1.0000 (n = 10)"
    # By Agresti and Coull, with two more of each kind: of 96 images, 50 or 98 of 100.
    half, whole = (_scores(Estimate(accuracy, 1.0, 96), TaskConfig()) for accuracy in (0.5, 1.0))
    assert half == "accuracy 0.5000 +- 0.0500 (standard error; n = 96), loss 1.0000"
    assert whole == "accuracy 1.0000 +- 0.0140 (standard error; n = 96), loss 1.0000"
    estimate = Estimate(5.0, 1.0, 10, shares=False)
    done = SimpleNamespace(
        result=SimpleNamespace(best_epoch=1, history=[1]), validation=estimate, test=estimate, run=BASE
    )
    found = _plain(done, None)
    assert found["metric"] == "r2"
    assert found["test"] == {"r2": 5.0, "loss": 1.0, "n": 10, "standard_error": None}
    done.run = RunConfig.parse({"task": {"loss": "mse_loss", "metric": "loss"}})
    assert _plain(done, None)["test"] == {"loss": 1.0, "n": 10, "standard_error": None}


def test_programs_read_the_metric_by_its_name(tmp_path):
    """In JSON, in exported files and in summary.csv: r2 itself, not 1 - r2; accuracy keeps its name."""
    for base, name in ((BASE, "val_r2"), (RunConfig(), "val_accuracy")):
        study = shown_study(12, base=base.model_dump(mode="json"))
        value = study.best_trial.user_attrs["val_accuracy"]
        (row,) = status_rows(study._storage)
        found = [rows(study)[0], row.plain()["best"], exported(study, study.best_trial, "")[1]]
        assert [one[name] for one in found] == [value] * 3
        assert sum("val_accuracy" in one for one in found) == (3 if name == "val_accuracy" else 0)
        report = EpochReport(1, 1, 0.5, 0.4, 0.75, 0.4, 0.1, 1.0, objective=0.25)
        Keeper(tmp_path, base.task.score).keep(torch.nn.Linear(1, 1), report)
        head, values = (tmp_path / "summary.csv").read_text().splitlines()
        assert head == f"epoch,train_loss,val_loss,smoothed_loss,{name},lr,seconds"
        assert values.split(",")[4] == "0.75"


DICE = TaskConfig(metric="mine:dice", objective="metric")


def test_a_confirmation_and_a_comparison_show_the_metric():
    """Means, intervals and differences are those of the metric, and higher is better."""
    arms = [arm("trial 3", [0.34, 0.36]), arm("no dropout", [0.45, 0.471], baseline=True)]
    best, anchor = arms[0].winner, replace(arms[1].winner, anchor=True)
    gap = paired(best.validation.objective, anchor.validation.objective)
    scale = Scale.of_task(DICE)
    verdict = _verdict([best, anchor], anchor, scale)
    assert verdict.startswith(
        "trial 3 has the highest dice: 0.6500 (95% interval 0.5229 to 0.7771) over 2 seeds; it is "
    )
    assert "0.1105 (95% interval 0.1041 to 0.1169) above the best anchor, no dropout" in verdict
    found = Confirmation(
        "accuracy", DICE, "s", "model", 2, (best, anchor), best, anchor, gap, 0.1, 0.1, None, verdict, ()
    )
    text = " ".join(printed(lambda console: show_confirmation(console, found)).split())
    assert "0.6500 +- 0.1271" in text
    assert "no dropout 0.5395 +- 0.1334 -0.1105 +- 0.0064" in text.replace("│ ", "")
    assert "the search had given it the dice 0.7000, which is 0.0500 too high" in text
    empty = replace(found, configurations=(), winner=None, verdict="none is complete")
    assert printed(lambda console: show_confirmation(console, empty)) == "none is complete\n"
    compared = compare_arms(arms, optimise="accuracy", task=DICE)
    text = printed(lambda console: show_comparison(console, compared))
    assert "+0.1105 (+0.1041 to +0.1169)" in text
    assert "1 - dice" not in text


def _searched(direction, offset, named, task=None):
    """A study of 40 trials in which dropout helps and one pattern is worse; ``offset`` is added to the values."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction=direction, sampler=sampler, study_name=named or "plain")
    if task is not None:
        study.set_user_attr(BASE_KEY, RunConfig.parse({"task": task}).model_dump(mode="json"))
    elif named:
        name_metric(study, named)

    def objective(trial):
        rate, pattern = trial.suggest_float("r0", 0, 0.7), trial.suggest_categorical("pattern", ["a", "b"])
        cost = 0.2 + (rate - 0.4) ** 2 + 0.3 * (pattern == "b") + 0.001 * (trial.number % 3)
        return offset + (cost if direction == "minimize" else -cost)

    study.optimize(objective, n_trials=40)
    return study


R2 = {"loss": "mse_loss", "metric": "mine:r2", "objective": "metric"}
PSNR = {"loss": "mse_loss", "metric": "mine:psnr", "objective": "metric"}
WORST = {"loss": "mse_loss", "metric": "mine:worst", "direction": "minimize", "objective": "metric"}


@pytest.mark.parametrize(
    ("study", "whether", "cost"),
    [
        (("minimize", 0, "", {}), "the loss is .* higher", "how much higher the loss is"),
        (("minimize", 0, "", {"objective": "metric"}), "the error is .* higher", "as a share of the error"),
        (
            ("minimize", 0, "", R2),
            "the gap between r2 and 1 is .* larger",
            "how much larger the gap between r2 and 1 is",
        ),
        (("minimize", -30, "", PSNR), r"psnr is 0\.\d+ \(.* lower", "how much lower psnr is"),
        (("minimize", 0, "", WORST), "worst is .* higher", "how much higher worst is"),
        (("maximize", 1, "F1 score"), r"F1 score is 0\.\d+ \(.* lower", "how much lower F1 score is"),
        (("maximize", 0, ""), "the objective value is .* further below 0", "the objective value is"),
    ],
)
def test_effects_are_told_of_what_is_optimised_and_the_right_way_round(monkeypatch, study, whether, cost):
    """In the answers, the terminal, the figures, the note and the report."""
    study = read_once(monkeypatch, _searched(*study))
    report = printed(lambda console: console.print(efficacy_report(study)))
    told = " ".join(report.split())
    assert re.search(f"Dropout helps: without it, {whether}", told)
    assert cost in told
    built, shown = page.build(study), build(study, "").html
    figure = built.figures["dropopt-costs"].replace("<br>", " ")
    assert cost in built.note.replace("\\", "")
    assert cost in shown
    assert cost.removeprefix("how much ") in figure
    texts = [told, re.sub(r"<style.*?</style>", "", shown, flags=re.DOTALL), figure, built.note]
    if not cost.endswith("the loss is"):
        assert not any(re.search(r"\bloss(es)?\b", text) for text in texts)
