"""DropoutCallback: an engine in Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dropopt.config import ConfigError
from dropopt.engine import BaselineEngine, DropoutEngine, Inside
from dropopt.engine.places.place import Selector
from dropopt.integrations.driver import Driver, Given, MetricNames, Unpack, unpack
from dropopt.integrations.missing import missing

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("lightning", error) from None


class DropoutCallback(Callback):
    """Attaches an engine when training starts, updates its rates, and keeps its state in Lightning's checkpoints.

    A training that continues from a checkpoint of the end of an epoch gives the same bits as one without a break.
    ``LightningModule.forward`` has to take the inputs of a batch.

    Args:
        engine: The file of an exported configuration, ``EngineConfig``, ``Baseline``, or an attached engine.
        val_loss: Name of the logged validation loss, in nats; None if there is none.
        val_accuracy: Name of the logged validation accuracy, in [0, 1]; None if there is none.
        complexity: D_complexity of eq. (9), in [0, 1]. Default: that of the file, or else measured on one pass over the
            training batches.
        module: Name of the submodule to attach to, such as ``"model"``; default: the LightningModule.
        sites: Overrides the setting ``sites``.
        inside: What happens to dropout that the network has; see :func:`dropopt.attach`.
        unpack: A function (batch) -> (inputs, labels). Default: tuples and mappings with the usual keys.

    Example:
        ``Trainer(max_epochs=20, callbacks=[DropoutCallback("best.yaml")]).fit(module, data)``
    """

    def __init__(
        self,
        engine: Given,
        *,
        val_loss: str | None = "val_loss",
        val_accuracy: str | None = "val_accuracy",
        complexity: float | None = None,
        module: str = "",
        sites: Selector | None = None,
        inside: Inside | None = None,
        unpack: Unpack = unpack,
    ) -> None:
        names = MetricNames(val_loss, val_accuracy)
        self._driver = Driver(engine, names, complexity=complexity, sites=sites, inside=inside, unpack=unpack)
        self._module = module
        self._steps = 0
        self._done = 0.0  # epochs, at the last validation

    @property
    def engine(self) -> DropoutEngine | BaselineEngine:
        """The engine, from the start of training on."""
        return self._driver.attached()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the engine."""
        if not trainer.max_epochs or trainer.max_epochs < 1:
            raise ConfigError("drop rates depend on the progress of training: give Trainer(max_epochs=...)")
        model: nn.Module = pl_module.get_submodule(self._module)

        def batches() -> Any:
            loader: Any = trainer.train_dataloader
            move: Callable[..., Any] = pl_module.transfer_batch_to_device
            return (move(batch, pl_module.device, 0) for batch in loader)

        self._driver.start(model, batches, trainer.optimizers)
        self._steps, self._done = trainer.global_step, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch and its loss, and refresh the rates if a step is due."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            loss = loss * trainer.accumulate_grad_batches  # Lightning has divided it
        self._driver.batch_ended(batch, loss if isinstance(loss, Tensor) else None)
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self._driver.step_ended(self._steps, self._epoch(trainer, batch_idx), trainer.max_epochs or 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh the rates with the validation metrics."""
        if trainer.sanity_checking or not self._driver.running:
            return
        batches = trainer.fit_loop.epoch_loop.batch_progress
        self._done = self._epoch(trainer, batches.current.ready - 1)
        if batches.is_last_batch:  # of a data set without a length, only this is known
            self._done = trainer.current_epoch + 1.0
        self._driver.epoch_ended(self._done, trainer.max_epochs or 1, trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh the rates if the epoch had no validation at its end."""
        if self._done < trainer.current_epoch + 1:
            self._driver.epoch_ended(float(trainer.current_epoch + 1), trainer.max_epochs or 1, None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach the engine."""
        self._driver.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach the engine."""
        self._driver.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return self._driver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self._driver.load_state_dict(state_dict)

    @staticmethod
    def _epoch(trainer: Trainer, batch: int) -> float:
        """Epochs done after a batch (from 0) of the current epoch."""
        per_epoch = trainer.num_training_batches
        share = (batch + 1) / per_epoch if math.isfinite(per_epoch) else 0.0
        return trainer.current_epoch + min(share, 1.0)
