"""DropoutCallback: an engine in Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dropopt.config import ConfigError
from dropopt.engine import Engine, Inside
from dropopt.engine.places.place import Selector
from dropopt.integrations.driver import Driver, Given, Unpack, unpack
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
        self._driver = Driver(
            engine, val_loss, val_accuracy, complexity=complexity, sites=sites, inside=inside, unpack=unpack
        )
        self._module = module
        self._steps = 0
        self._validated = False  # whether the rates were refreshed after the last batch of the epoch

    @property
    def engine(self) -> Engine:
        """The engine, from the start of training on."""
        return self._driver.attached()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the engine."""
        if (trainer.max_epochs or 0) < 1 and trainer.max_steps < 1:
            raise ConfigError(
                "drop rates depend on the progress of training: give Trainer(max_epochs=...) or max_steps"
            )
        model: nn.Module = pl_module.get_submodule(self._module)

        def batches() -> Any:
            loader: Any = trainer.train_dataloader
            move: Callable[..., Any] = pl_module.transfer_batch_to_device
            return (move(batch, pl_module.device, 0) for batch in loader)

        self._driver.start(model, batches, trainer.optimizers)
        self._steps, self._validated = trainer.global_step, False

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
            self._driver.step_ended(self._steps, _done(trainer), 1, last=_batches(trainer).is_last_batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh the rates with the validation metrics."""
        if trainer.sanity_checking or not self._driver.running:
            return
        self._validated = _batches(trainer).is_last_batch
        self._driver.epoch_ended(_done(trainer), 1, trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh the rates if the epoch had no validation at its end."""
        if not self._validated:
            self._driver.epoch_ended(_done(trainer, trainer.current_epoch + 1), 1, None)
        self._validated = False

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


def _batches(trainer: Trainer) -> Any:
    """The progress within the current epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress


def _done(trainer: Trainer, epoch: float | None = None) -> float:
    """The share of the training that is done, in [0, 1], by the limit that ends it first: of epochs or of steps.

    Args:
        trainer: The trainer.
        epoch: Epochs done. Default: those until the current batch; without a length of the data, only whole epochs.
    """
    if epoch is None:
        batches, per_epoch = _batches(trainer), trainer.num_training_batches
        share = batches.current.ready / per_epoch if math.isfinite(per_epoch) else 0.0
        epoch = trainer.current_epoch + (1.0 if batches.is_last_batch else min(share, 1.0))
    limits = (epoch, trainer.max_epochs or 0), (trainer.global_step, trainer.max_steps)
    return min(1.0, max(done / limit for done, limit in limits if limit > 0))
