"""The Ignite handler: rates follow the evaluator's metrics, and checkpoints continue bit for bit."""

from __future__ import annotations

import pytest
import torch
from loops import DEMANDING, assert_continued, loader
from torch.nn import functional as F
from toy import network, toy

from dropopt.config import Baseline, ConfigError, EngineConfig

ignite = pytest.importorskip("ignite.engine")
from ignite.handlers import Checkpoint, DiskSaver  # noqa: E402
from ignite.metrics import Accuracy, Loss  # noqa: E402

from dropopt.integrations.ignite import DropoutHandler  # noqa: E402

DATA = toy()


def make(config, *, evaluate=True, **options):
    """A trainer with a handler, and the objects of a checkpoint."""
    torch.manual_seed(3)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = ignite.create_supervised_trainer(
        model, optimizer, F.cross_entropy, output_transform=lambda x, y, y_pred, loss: loss
    )
    metrics = {"accuracy": Accuracy(), "loss": Loss(F.cross_entropy)}
    evaluator = ignite.create_supervised_evaluator(model, metrics) if evaluate else None
    handler = DropoutHandler(config, model, optimizer, **options)
    handler.attach(trainer, evaluator)
    if evaluator is not None:
        trainer.add_event_handler(ignite.Events.EPOCH_COMPLETED, lambda: evaluator.run(loader(DATA.validation)))
    return trainer, handler, {"model": model, "optimizer": optimizer, "trainer": trainer, "dropout": handler}


def test_a_training_that_continues_gives_the_same_bits(tmp_path):
    trainer, whole, objects = make(DEMANDING)
    saver = Checkpoint(objects, DiskSaver(tmp_path, require_empty=False), n_saved=None)
    trainer.add_event_handler(ignite.Events.EPOCH_COMPLETED, saver)
    trainer.run(loader(DATA.train, shuffle=True), max_epochs=3)

    trainer, again, others = make(DEMANDING)
    (file,) = tmp_path.glob("*_6.pt")  # after the first epoch
    Checkpoint.load_objects(others, torch.load(file, weights_only=True))
    trainer.run(loader(DATA.train, shuffle=True), max_epochs=3)
    assert_continued((objects["model"], whole.engine), (others["model"], again.engine))


def test_metrics_and_baselines():
    """The evaluator's metrics reach the engine; without one, rates follow the epochs; a missing metric is an error."""
    trainer, handler, _ = make(EngineConfig(), complexity=0.5)
    trainer.run(loader(DATA.train), max_epochs=1)
    metrics = handler.engine._metrics
    assert metrics.progress == 1
    assert None not in (metrics.val_loss, metrics.val_accuracy, metrics.train_loss)
    trainer, handler, _ = make(Baseline(kind="dropout", p=0.3, schedule="linear"), evaluate=False)
    trainer.run(loader(DATA.train), max_epochs=2)
    assert {row["applied"] for row in handler.engine.rates()} == {0.3}
    trainer, _, objects = make(EngineConfig(), complexity=0.5, val_loss="nll")
    with pytest.raises(ConfigError, match="no metric is called 'nll'; there are: accuracy, loss"):
        trainer.run(loader(DATA.train), max_epochs=1)
    assert not any(part._forward_hooks for part in objects["model"].modules())  # detached after the error
