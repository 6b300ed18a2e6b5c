"""The Lightning callback: the rates of ``fit``, metrics by their names, and checkpoints that continue bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch
from loops import DEMANDING, assert_continued, loader, refreshes
from torch.nn import functional as F
from toy import network, toy

import dropopt
from dropopt.config import Baseline, ConfigError, EngineConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.callbacks import ModelCheckpoint

    from dropopt.integrations.lightning import DropoutCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about loggers and workers

DATA = toy()


class Module(lightning.LightningModule):
    """A classifier that logs its validation metrics."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.losses = []  # of each batch: its epoch, the sum over its samples, and their number

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append((self.current_epoch, loss.item() * len(batch[1]), len(batch[1])))
        return loss

    def validation_step(self, batch, _):
        """Log the validation loss and accuracy."""
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def train(folder, callback, *, stop=None, resume=None, validate=True, accumulate=1, data=None, **settings):
    """Train for three epochs, or stop after ``stop``; return the module and the callback."""
    torch.manual_seed(3)
    module = Module()
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback, keep, *([Stop(stop)] if stop else [])], limit_val_batches=None if validate else 0,
        accumulate_grad_batches=accumulate, **{"max_epochs": 3, **settings},
    )  # fmt: skip
    data = loader(DATA.train, shuffle=True) if data is None else data
    trainer.fit(module, data, loader(DATA.validation), ckpt_path=resume)
    return module, callback


class Stop(lightning.Callback):
    """Ends the training after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epoch


def test_a_training_that_continues_gives_the_same_bits(tmp_path):
    whole, callback = train(tmp_path / "whole", DropoutCallback(DEMANDING))
    train(tmp_path / "half", DropoutCallback(DEMANDING), stop=1)
    (checkpoint,) = (tmp_path / "half").glob("epoch=0*.ckpt")
    resumed, again = train(tmp_path / "rest", DropoutCallback(DEMANDING), resume=checkpoint)
    assert_continued((whole, callback.engine), (resumed, again.engine))


def test_the_engine_receives_metrics_progress_and_complexity(tmp_path):
    """Complexity is measured on the training data; validation loss and accuracy are those that were logged.

    The training loss is the mean over the samples of the epoch, also if gradients of several batches are accumulated.
    """
    callback = DropoutCallback(EngineConfig(r0=0.4))
    module, _ = train(tmp_path, callback, accumulate=2)
    engine = callback.engine
    ordered = dropopt.training.measure_complexity(DATA.train.images, DATA.train.labels)
    assert engine.complexity == pytest.approx(ordered, abs=0.1)  # the folds depend on the order
    metrics = engine._metrics
    assert metrics.progress == 1
    assert 0 < metrics.val_loss < 3
    _, sums, counts = zip(*(one for one in module.losses if one[0] == 2), strict=True)
    assert metrics.train_loss == pytest.approx(sum(sums) / sum(counts))
    assert 0 <= metrics.val_accuracy <= 1


class Unsized(torch.utils.data.IterableDataset):
    """The training data, or the first few, without a length."""

    def __init__(self, count=None):
        self.count = count

    def __iter__(self):
        return zip(DATA.train.images.contiguous()[: self.count], DATA.train.labels[: self.count], strict=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"data": torch.utils.data.DataLoader(Unsized(), 16), "val_check_interval": 4},
        {"limit_train_batches": 5, "val_check_interval": 0.5},  # after batches 2 and 4
        {"precision": "64-true"},
    ],
)
def test_every_training_ends_with_the_rates_of_its_end(tmp_path, settings):
    """Progress is 1 also if batches are not known beforehand, if the last ones are not validated, and in float64."""
    callback = DropoutCallback(EngineConfig(), complexity=0.5)
    train(tmp_path, callback, **settings)
    assert callback.engine._metrics.progress == 1


FEW = torch.utils.data.DataLoader(Unsized(3 * 16), 16)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"limit_train_batches": 3}, [2 / 9, 3 / 9, 4 / 9, 6 / 9, 8 / 9, 9 / 9]),  # steps 2, 3, 4, 6, 8, 9
        ({"limit_train_batches": 3, "max_epochs": -1, "max_steps": 5}, [2 / 5, 3 / 5, 4 / 5, 5 / 5]),
        ({"limit_train_batches": 3, "max_epochs": 9, "max_steps": 5}, [2 / 5, 3 / 5, 4 / 5, 5 / 5]),
        ({"data": FEW}, [0 / 9, 3 / 9, 3 / 9, 6 / 9, 6 / 9, 9 / 9]),
        ({"data": FEW, "max_epochs": -1, "max_steps": 5}, [2 / 5, 3 / 5, 4 / 5, 5 / 5]),
    ],
)
def test_rates_follow_the_progress_to_the_end_of_the_training(tmp_path, monkeypatch, settings, expected):
    """They are refreshed every two steps and after epochs; ``max_steps`` may end the training before ``max_epochs``.

    Of data without a length, only whole epochs and the share of ``max_steps`` are known.
    """
    seen = refreshes(monkeypatch)
    train(tmp_path, DropoutCallback(EngineConfig(update_every=2), complexity=0.5), validate=False, **settings)
    assert seen == pytest.approx(expected)


def test_without_validation_and_with_a_baseline(tmp_path):
    """Rates follow the epochs where nothing is validated; a baseline needs no metrics."""
    _, callback = train(tmp_path, DropoutCallback(Baseline(kind="dropout2d", p=0.3, schedule="linear")), validate=False)
    assert {row["applied"] for row in callback.engine.rates()} == {0.3}


def test_a_metric_that_is_not_logged_is_an_error(tmp_path):
    callback = DropoutCallback(EngineConfig(), val_accuracy="acc", complexity=0.5)
    with pytest.raises(ConfigError, match=r"no metric is called 'acc'; there are: val_loss, val_accuracy\. Log it"):
        train(tmp_path, callback)


def test_an_exported_file_and_a_submodule(tmp_path):
    """``best.yaml`` is read when the callback is made; places are named as in the submodule."""
    file = tmp_path / "best.yaml"
    file.write_text("engine: {r0: 0.2, sites: norm}\nprovenance: {complexity: 0.25}\n")
    callback = DropoutCallback(str(file), module="net")
    train(tmp_path, callback)
    assert callback.engine.complexity == 0.25
    assert callback.engine.model is not None
    assert all(not name.startswith("net") for name in callback.engine.sites)
    with pytest.raises(ConfigError, match="give the file of an exported configuration"):
        DropoutCallback({"r0": 0.2})
