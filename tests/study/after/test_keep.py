"""What ``dropopt train --checkpoints`` keeps, and what an interrupted training continues from."""

import csv

import pytest
import torch

from dropopt.config import ConfigError, RunConfig
from dropopt.study.after.retrain import retrain


def trained(folder, on_epoch=lambda report: None, **train):
    settings = {"epochs": 4, "batch_size": 32, "lr": 0.1, "device": "cpu", **train}
    run = RunConfig.parse({"data": {"subset": 100}, "train": settings, "engine": {"r0": 0.2}})
    return retrain(run, {}, threads=1, on_notice=print, on_epoch=on_epoch, checkpoints=folder)


def rows(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def weights(path):
    return torch.load(path, weights_only=True)


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_an_interrupted_training_continues_and_ends_with_the_same_files(tmp_path):
    """Weights of the last and of the best epoch, one row per epoch, and the same bits after an interruption."""
    kept = []
    whole = trained(tmp_path / "a", lambda report: kept.append(weights(tmp_path / "a" / "last.pt")))
    assert equal(weights(tmp_path / "a" / "best.pt"), whole.weights)
    assert equal(weights(tmp_path / "a" / "best.pt"), kept[whole.result.best_epoch - 1])
    assert equal(weights(tmp_path / "a" / "last.pt"), kept[-1])
    for row, report in zip(rows(tmp_path / "a"), whole.result.history, strict=True):
        assert float(row["val_loss"]) == report.val_loss
        assert float(row["lr"]) == report.lr
        site = report.rates[-1]
        assert float(row[f"rate.{site['site']}"]) == site["applied"]

    def interrupt(report):
        if report.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", interrupt)
    seen = []
    resumed = trained(tmp_path / "b", lambda report: seen.append(report.epoch))
    assert seen == [3, 4]
    assert equal(resumed.weights, whole.weights)
    assert resumed.result.rates.keys() == whole.result.rates.keys() != set()
    assert all(equal(rates, whole.result.rates[site]) for site, rates in resumed.result.rates.items())
    numbers = [[row[name] for name in row if name != "seconds"] for row in rows(tmp_path / "b")]
    assert numbers == [[row[name] for name in row if name != "seconds"] for row in rows(tmp_path / "a")]


def test_a_folder_that_cannot_be_written_is_reported_first(tmp_path):
    """Before anything is trained."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be created: File exists"):
        trained(tmp_path / "file", epochs=99999)
