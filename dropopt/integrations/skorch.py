"""DropoutCallback: an engine in a net of skorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dropopt.engine import Engine, Inside
from dropopt.engine.places.place import Selector
from dropopt.files import load_tensors, save_tensors
from dropopt.integrations.driver import Driver, Given, Unpack, unpack
from dropopt.integrations.missing import missing

try:
    from skorch.callbacks import Callback
except ImportError as error:
    raise missing("skorch", error) from None


class DropoutCallback(Callback):  # type: ignore[misc]
    """Attaches an engine when training starts and updates its rates after each epoch.

    With ``f_state``, a training that continues with skorch's ``LoadInitState`` gives the same bits as one without a
    break. List ``LoadInitState`` before this callback.

    Args:
        engine: The file of an exported configuration, ``EngineConfig``, ``Baseline``, or an attached engine.
        val_loss: Name of the validation loss in the history, in nats; None if there is none.
        val_accuracy: Name of the validation accuracy in the history, in [0, 1]; None if there is none.
        complexity: D_complexity of eq. (9), in [0, 1]. Default: that of the file, or else measured on one pass over the
            training data.
        sites: Overrides the setting ``sites``.
        inside: What happens to dropout that the network has; see :func:`dropopt.attach`.
        unpack: A function (batch) -> (inputs, labels). Default: pairs.
        f_state: A file that receives the state of the engine after each epoch. It is read when training starts with a
            history.

    Example:
        ``NeuralNetClassifier(Net, callbacks=[("dropout", DropoutCallback("best.yaml"))]).fit(X, y)``
    """

    def __init__(
        self,
        engine: Given,
        *,
        val_loss: str | None = "valid_loss",
        val_accuracy: str | None = "valid_acc",
        complexity: float | None = None,
        sites: Selector | None = None,
        inside: Inside | None = None,
        unpack: Unpack = unpack,
        f_state: str | os.PathLike[str] | None = None,
    ) -> None:
        # skorch reads the parameters of a callback from attributes of the same names.
        self.engine = engine
        self.val_loss = val_loss
        self.val_accuracy = val_accuracy
        self.complexity = complexity
        self.sites = sites
        self.inside = inside
        self.unpack = unpack
        self.f_state = f_state

    def initialize(self) -> DropoutCallback:
        """Forget the training before."""
        self.driver_ = Driver(
            self.engine,
            self.val_loss,
            self.val_accuracy,
            complexity=self.complexity,
            sites=self.sites,
            inside=self.inside,
            unpack=self.unpack,
        )
        return self

    @property
    def engine_(self) -> Engine:
        """The engine, from the start of training on."""
        return self.driver_.attached()

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Read the state of the engine if the net has a history."""
        self.epochs_ = len(net.history) + net.max_epochs
        if len(net.history) and self.f_state is not None and Path(self.f_state).exists():
            self.driver_.load_state_dict(load_tensors(Path(self.f_state)))

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Attach the engine before the first epoch."""
        if not self.driver_.running:
            optimizers = [getattr(net, f"{name}_") for name in net._optimizers]
            self.driver_.start(net.module_, lambda: net.get_iterator(dataset_train, training=False), optimizers)
        self.step_, self.per_epoch_ = 0, len(net.get_iterator(dataset_train, training=True))

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Remember the batch, and refresh the rates if a step is due."""
        if not training:
            return
        self.driver_.batch_ended(batch, kwargs["loss"])
        self.step_ += 1
        done = len(net.history) - 1 + self.step_ / self.per_epoch_
        self.driver_.step_ended(round(done * self.per_epoch_), done, self.epochs_)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Refresh the rates with the metrics in the history."""
        row = net.history[-1]
        logged = None if dataset_valid is None else row
        self.driver_.epoch_ended(float(len(net.history)), max(self.epochs_, len(net.history)), logged)
        if self.f_state is not None:
            save_tensors(Path(self.f_state), self.driver_.state_dict())

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Detach the engine."""
        self.driver_.stop()
