"""DropoutHandler: an engine in a trainer of Ignite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError
from dropopt.engine import Engine, Inside
from dropopt.engine.places.place import Selector
from dropopt.integrations.driver import Driver, Given, Unpack, unpack
from dropopt.integrations.missing import missing

try:
    from ignite.engine import Engine as IgniteEngine
    from ignite.engine import Events
except ImportError as error:
    raise missing("ignite", error) from None


class DropoutHandler:
    """Attaches a dropout engine when a trainer starts, and updates its rates.

    With an evaluator, the rates are updated when it completes. Run it on ``Events.EPOCH_COMPLETED`` of the trainer.
    ``Checkpoint({"model": model, "dropout": handler, ...}, ...)`` keeps the state. A training that continues from a
    checkpoint of the end of an epoch gives the same bits as one without a break.

    Args:
        engine: The file of an exported configuration, ``EngineConfig``, ``Baseline``, or an attached engine.
        model: The model that is trained.
        optimizer: Its optimizer; needed for the setting ``drop_updates``.
        val_loss: Name of the evaluator's loss, in nats; None if there is none.
        val_accuracy: Name of the evaluator's accuracy, in [0, 1]; None if there is none.
        complexity: D_complexity of eq. (9), in [0, 1]. Default: that of the file, or else measured on one pass over the
            training data.
        sites: Overrides the setting ``sites``.
        inside: What happens to dropout that the network has; see :func:`dropopt.attach`.
        unpack: A function (batch) -> (inputs, labels). Default: tuples and mappings with the usual keys.

    Example:
        ``DropoutHandler("best.yaml", model, optimizer).attach(trainer, evaluator)``
    """

    def __init__(
        self,
        engine: Given,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        val_loss: str | None = "loss",
        val_accuracy: str | None = "accuracy",
        complexity: float | None = None,
        sites: Selector | None = None,
        inside: Inside | None = None,
        unpack: Unpack = unpack,
    ) -> None:
        self._driver = Driver(
            engine, val_loss, val_accuracy, complexity=complexity, sites=sites, inside=inside, unpack=unpack
        )
        self._model = model
        self._optimizers = [] if optimizer is None else [optimizer]
        self._trainer: IgniteEngine | None = None

    @property
    def engine(self) -> Engine:
        """The dropout engine, from the start of training on."""
        return self._driver.attached()

    def attach(self, trainer: IgniteEngine, evaluator: IgniteEngine | None = None) -> None:
        """Add the handlers.

        Args:
            trainer: Its output is the loss of a batch, or a mapping with the entry ``loss``.
            evaluator: Its metrics are the validation metrics.
        """
        self._trainer = trainer
        trainer.add_event_handler(Events.STARTED, self._started)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        if evaluator is None:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        else:
            evaluator.add_event_handler(Events.COMPLETED, self._evaluated)
        trainer.add_event_handler(Events.COMPLETED, self._stop)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return self._driver.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self._driver.load_state_dict(state)

    def _started(self, trainer: IgniteEngine) -> None:
        if not trainer.state.max_epochs:
            raise ConfigError("drop rates depend on the progress of training: give trainer.run(..., max_epochs=...)")
        self._driver.start(self._model, lambda: trainer.state.dataloader or (), self._optimizers)

    def _iteration_completed(self, trainer: IgniteEngine) -> None:
        state = trainer.state
        output: Any = state.output
        loss = output.get("loss") if isinstance(output, Mapping) else output
        self._driver.batch_ended(state.batch, loss if isinstance(loss, Tensor | float) else None)
        self._driver.step_ended(state.iteration, state.iteration / (state.epoch_length or 1), state.max_epochs or 1)

    def _epoch_completed(self, trainer: IgniteEngine) -> None:
        self._driver.epoch_ended(float(trainer.state.epoch), trainer.state.max_epochs or 1, None)

    def _evaluated(self, evaluator: IgniteEngine) -> None:
        if self._trainer is None or not self._driver.running:
            return
        state = self._trainer.state
        done = state.iteration / (state.epoch_length or 1)
        self._driver.epoch_ended(done, state.max_epochs or 1, evaluator.state.metrics)

    def _stop(self, trainer: IgniteEngine) -> None:
        self._driver.stop()

    def _failed(self, trainer: IgniteEngine, error: BaseException) -> None:
        self._driver.stop()
        raise error
