"""What ``dropopt train --checkpoints`` keeps, and what an interrupted training continues from."""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch

from dropopt import cli
from dropopt.config import ConfigError, RunConfig
from dropopt.export import save
from dropopt.study.after.keep import Keeper
from dropopt.study.after.retrain import retrain


def trained(folder, on_epoch=lambda report: None, **train):
    settings = {"epochs": 3, "batch_size": 32, "lr": 0.1, "device": "cpu", **train}
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
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", interrupt)
    seen = []
    resumed = trained(tmp_path / "b", lambda report: seen.append(report.epoch))
    assert seen == [2, 3]
    assert equal(resumed.weights, whole.weights)
    assert resumed.result.rates.keys() == whole.result.rates.keys() != set()
    assert all(equal(rates, whole.result.rates[site]) for site, rates in resumed.result.rates.items())
    assert [row | {"seconds": ""} for row in rows(tmp_path / "b")] == [
        row | {"seconds": ""} for row in rows(tmp_path / "a")
    ]


def report(epoch, smoothed, **rates):
    rows = [{"site": site, "applied": rate} for site, rate in rates.items()]
    columns = {"train_loss": 1.0, "val_loss": 2.0, "val_accuracy": 0.5, "lr": 0.1, "seconds": 3.0}
    # The best epoch is that of the objective, not of the loss, which rises here.
    return SimpleNamespace(epoch=epoch, smoothed_loss=float(epoch), objective=smoothed, rates=rows, **columns)


def test_the_best_epoch_is_the_first_with_the_lowest_objective(tmp_path):
    """Also after an interruption; the table has a column for each place of the last epoch."""
    folder, model = tmp_path / "new" / "folder", torch.nn.Linear(1, 1)
    folder.mkdir(parents=True)
    for name in (".last.pt.1.tmp", ".best.pt.2.tmp", ".summary.csv.3.tmp", "notes.tmp"):
        (folder / name).write_text("left by a process that was killed")
    keeper = Keeper(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.tmp"]
    assert keeper.resume == folder / "resume.ckpt"
    bests = []
    for epoch, smoothed in enumerate((3.0, 2.0, 2.0, 5.0, 1.0), start=1):
        if epoch == 4:  # interrupted
            keeper = Keeper(folder)
            keeper.resumed(report(e, s, a=0.1) for e, s in ((1, 3.0), (2, 2.0), (3, 2.0)))
        torch.nn.init.constant_(model.weight, epoch)
        keeper.keep(model, report(epoch, smoothed, a=0.1, **({"b": 0.2} if epoch == 5 else {})))
        assert weights(folder / "last.pt")["weight"].item() == epoch
        bests.append(weights(folder / "best.pt")["weight"].item())
    assert bests == [1, 2, 2, 2, 5]
    lines = (folder / "summary.csv").read_bytes().decode().split("\n")
    assert len(lines) == 7
    assert lines[0] == "epoch,train_loss,val_loss,smoothed_loss,val_accuracy,lr,seconds,rate.a,rate.b"
    assert lines[1] == "1,1.0,2.0,1.0,0.5,0.1,3.0,0.1,"
    assert lines[5] == "5,1.0,2.0,5.0,0.5,0.1,3.0,0.1,0.2"
    (folder / "summary.csv").unlink()
    (folder / "summary.csv").mkdir()
    with pytest.raises(ConfigError, match=r"^\S+summary\.csv cannot be written: Is a directory$"):
        keeper.keep(model, report(6, 9.0, a=0.1))


def test_a_folder_that_cannot_be_written_is_reported_first(tmp_path):
    """Before anything is trained. A folder that does not exist is created, with those above it."""
    Keeper(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be created: File exists"):
        trained(tmp_path / "file", epochs=99999)


@pytest.mark.filterwarnings("default")  # the command shows warnings, which are errors in other tests
def test_an_unusable_checkpoint_is_one_line(tmp_path, monkeypatch, capsys):
    """The command says in a note that it starts afresh, without the line of code of a Python warning."""
    train = {"epochs": 1, "batch_size": 32, "device": "cpu"}
    save(tmp_path / "a.yaml", RunConfig.parse({"data": {"subset": 100}, "train": train}), {})
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "resume.ckpt").write_text("damaged")
    line = ["dropopt", "train", str(tmp_path / "a.yaml"), "--checkpoints", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    printed = capsys.readouterr()
    assert printed.err == ""
    (note,) = [line for line in printed.out.splitlines() if "resume.ckpt" in line]
    assert note.startswith(f"note: checkpoint {tmp_path / 'kept' / 'resume.ckpt'} is not usable (")
    assert note.endswith("it is kept as resume.ckpt.bad and training starts afresh")
