"""The skorch callback: rates follow the history, and a training with LoadInitState continues bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loops import DEMANDING, assert_continued
from sklearn.base import clone
from torch import nn
from toy import network, toy

from dropopt.config import EngineConfig

skorch = pytest.importorskip("skorch")
from skorch.callbacks import Checkpoint, LoadInitState  # noqa: E402

from dropopt.integrations.skorch import DropoutCallback  # noqa: E402

DATA = toy()
X, Y = DATA.train.images.contiguous().numpy(), DATA.train.labels.numpy()


class Net(nn.Module):
    """The toy network, as a class."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)


def fit(callbacks, epochs=3, **options):
    """Train and return the net."""
    torch.manual_seed(3)
    net = skorch.NeuralNetClassifier(
        Net, criterion=nn.CrossEntropyLoss, lr=0.05, optimizer__momentum=0.9, max_epochs=epochs, batch_size=16,
        verbose=0, iterator_train__shuffle=True, train_split=skorch.dataset.ValidSplit(4), callbacks=callbacks,
        **options,
    )  # fmt: skip
    return net.fit(X, Y)


def test_a_training_that_continues_gives_the_same_bits(tmp_path):
    def callbacks(load):
        keep = Checkpoint(monitor=None, dirname=tmp_path)
        return [
            *([("load", LoadInitState(keep))] if load else []),
            ("dropout", DropoutCallback(DEMANDING, f_state=tmp_path / "dropopt.pt")),
            ("keep", keep),
        ]

    # The total is that of the training without a break: one epoch, interrupted by an error.
    class Interrupt(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    whole = fit(callbacks(load=False))
    fit([*callbacks(load=False), ("stop", Interrupt())])
    rest = fit(callbacks(load=True), epochs=2)
    assert len(rest.history) == 3
    first, second = dict(whole.callbacks_)["dropout"].engine_, dict(rest.callbacks_)["dropout"].engine_
    assert_continued((whole.module_, first), (rest.module_, second))


def test_metrics_clones_and_predictions():
    """The history's metrics reach the engine; a net can be cloned; predictions do not drop anything."""
    net = fit([("dropout", DropoutCallback(EngineConfig(), complexity=0.5))], epochs=1)
    metrics = dict(net.callbacks_)["dropout"].engine_._metrics
    assert metrics.val_loss == pytest.approx(net.history[-1]["valid_loss"])
    assert metrics.val_accuracy == pytest.approx(net.history[-1]["valid_acc"])
    assert metrics.train_loss == pytest.approx(net.history[-1]["train_loss"])
    assert np.array_equal(net.predict_proba(X), net.predict_proba(X))
    other = clone(net).set_params(callbacks__dropout__engine=EngineConfig(r0=0.1), max_epochs=1).fit(X, Y)
    assert dict(other.callbacks_)["dropout"].engine_.config.r0 == 0.1
