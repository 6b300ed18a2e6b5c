"""Driver: calls an engine from the hooks of a training framework, as ``dropopt train`` does.

A framework says when training starts, when a step is taken, when metrics are known and when training ends. The driver
attaches the engine, measures the complexity of the data, keeps the batch that a probe needs, and takes the state of the
engine in and out of checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine import Engine, Inside, attach
from dropopt.engine.metrics import used_metrics
from dropopt.engine.places.place import Example, Selector
from dropopt.engine.ranks import mean_over_ranks
from dropopt.export import Exported, load
from dropopt.inputs import each, parts
from dropopt.randomness import random_state, set_random_state
from dropopt.training import measure_complexity

#: What a user may give: the file of an exported configuration, settings, or an engine that is attached already.
Given = str | os.PathLike[str] | Exported | EngineConfig | Baseline | Engine
#: From a batch to the inputs of the model and the labels.
Unpack = Callable[[Any], tuple[Example, Tensor]]

#: Keys of a batch that is a mapping, by the names that data sets use.
_INPUTS = ("pixel_values", "images", "image", "inputs", "input_values", "x", "img")
_LABELS = ("labels", "label", "targets", "target", "y")


def unpack(batch: Any) -> tuple[Example, Tensor]:
    """Return the inputs and the labels of a batch: (inputs..., labels), or a mapping with the usual keys.

    Raises:
        ConfigError: The batch has another form.
    """
    if isinstance(batch, Mapping):
        inputs = next((batch[key] for key in _INPUTS if key in batch), None)
        labels = next((batch[key] for key in _LABELS if key in batch), None)
        if inputs is not None and labels is not None:
            return inputs, labels
        what = f"a mapping with the keys {', '.join(map(str, batch))}"
    elif isinstance(batch, list | tuple) and len(batch) >= 2:
        *inputs, labels = batch
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), labels
    else:
        what = type(batch).__name__
    raise ConfigError(f"a batch is {what}; give unpack=, a function (batch) -> (inputs, labels)")


class Driver:
    """Drives one engine through one training.

    Args:
        given: What to attach, or an engine that is attached.
        val_loss: The name of the validation loss in the framework's log; None if it has none.
        val_accuracy: The name of the validation accuracy there; None if it has none.
        complexity: D_complexity of eq. (9). None to take it from the exported file, or else to measure it.
        sites: Overrides the setting ``sites``.
        inside: See :func:`dropopt.attach`.
        unpack: From a batch to inputs and labels.
    """

    def __init__(
        self,
        given: Given,
        val_loss: str | None,
        val_accuracy: str | None,
        *,
        complexity: float | None = None,
        sites: Selector | None = None,
        inside: Inside | None = None,
        unpack: Unpack = unpack,
    ) -> None:
        self.engine = given if isinstance(given, Engine) else None
        self.names, self.unpack = {"val_loss": val_loss, "val_accuracy": val_accuracy}, unpack
        self.config, known = _settings(given)
        self.complexity = known if complexity is None else complexity
        self._sites, self._inside = sites, inside
        self._own = self.engine is None  # whether this driver attached the engine and has to detach it
        self.running = False  # whether training has started and not ended
        self._pending: Mapping[str, Any] | None = None
        self._batch: tuple[Example, Tensor] | None = None  # the last one, for a probe
        self._loss: Tensor | float = 0.0  # sum over the samples of the epoch
        self._count = 0  # of these samples

    # -- start and end

    def start(
        self, model: nn.Module, batches: Callable[[], Iterable[Any]], optimizers: Iterable[torch.optim.Optimizer]
    ) -> None:
        """Attach the engine, unless it is attached, and continue from the state that was loaded.

        Args:
            model: The model that the framework trains.
            batches: Returns the training data; its first batch is the example, and the complexity is measured on all of
                them, if the settings use it and it is not known. The random state does not change.
            optimizers: The optimizers of the training.
        """
        before = random_state()
        if self.engine is None or (self._own and not self.running):
            self.engine = self._attach(model, batches)
        try:
            self._watch(self.engine, list(optimizers))
            if self._pending is not None:
                self.engine.load_state_dict(self._pending)
                self._pending = None
        except Exception:
            if self._own and not self.running:  # attached above: the next attempt attaches again
                self.engine.detach()
            raise
        set_random_state(before)
        self.running = True
        self._forget()

    @staticmethod
    def _watch(engine: Engine, optimizers: list[torch.optim.Optimizer]) -> None:
        """Watch all optimizers; some of them, but not all, may hold no layer whose updates the engine drops."""
        refusals = []
        for optimizer in optimizers:
            try:
                engine.watch(optimizer)
            except ConfigError as refusal:
                refusals.append(refusal)
        if refusals and len(refusals) == len(optimizers):
            raise refusals[0]

    def stop(self) -> None:
        """Detach the engine if the driver attached it; its state is kept for a training that continues."""
        if self.running and self.engine is not None and self._own:
            self._pending = self.engine.state_dict()
            self.engine.detach()
        self.running = False

    def attached(self) -> Engine:
        """The engine.

        Raises:
            ConfigError: Training has not started.
        """
        if self.engine is None:
            raise ConfigError("the engine is attached when training starts; before, there is none")
        return self.engine

    # -- during training

    def batch_ended(self, batch: Any, loss: Tensor | float | None) -> None:
        """Remember the batch for a probe, and add its loss to the mean of the epoch."""
        engine = self.attached()
        if loss is None and not engine.needs_probe:
            return
        inputs, labels = self.unpack(batch)
        if engine.needs_probe:
            self._batch = inputs, labels
        if loss is not None:
            count = len(labels)
            self._loss = self._loss + (loss.detach() if isinstance(loss, Tensor) else loss) * count
            self._count += count

    def step_ended(self, step: int, epoch: float, epochs: int, *, last: bool | None = None) -> None:
        """Refresh the rates within an epoch, if ``step`` (from 1) is due by the setting ``update_every``.

        ``last`` tells whether the step is the last one of an epoch, by default whether ``epoch`` is a whole number. It
        is left to :meth:`epoch_ended`, as is the end of the training.
        """
        every = self.attached().update_every
        if last is None:
            last = abs(epoch - round(epoch)) < 1e-9
        if every and step % every == 0 and not last and epoch < epochs:
            self._refresh(epoch, epochs, {})

    def epoch_ended(
        self, epoch: float, epochs: int, logged: Mapping[str, Any] | None, train_loss: float | None = None
    ) -> None:
        """Refresh the rates after an epoch, or whenever metrics are known.

        Args:
            epoch: Epochs done; a fraction within an epoch.
            epochs: Epochs of the whole training.
            logged: The metrics of the framework, in which the validation metrics are found by their names; None if
                nothing was validated.
            train_loss: Mean training loss of the epoch; measured from the batches if it is None.
        """
        metrics: dict[str, Any] = {} if logged is None else self._found(logged)
        mean = train_loss if train_loss is not None else float(self._loss) / self._count if self._count else None
        if mean is not None:
            metrics["train_loss"] = mean
        self._refresh(epoch, epochs, metrics)
        self._forget()

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the engine, random state included; empty before training."""
        if self.running:
            return self.attached().state_dict()
        return dict(self._pending or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state`` when training starts. The random state is set now, before data are drawn."""
        if not state:
            return
        set_random_state(state["rng"])
        if self.running:
            self.attached().load_state_dict(state)
        else:
            self._pending = dict(state)

    # -- inside

    def _attach(self, model: nn.Module, batches: Callable[[], Iterable[Any]]) -> Engine:
        example, _ = self.unpack(next(iter(batches())))
        few = each(lambda part: part[:2], example)
        if self.complexity is None and isinstance(self.config, EngineConfig) and self.config.uses("contextual"):
            pairs = ((next(iter(parts(inputs).values())), labels) for inputs, labels in map(self.unpack, batches()))
            device = next((p.device for p in model.parameters()), None)  # NCCL takes tensors of a GPU only
            self.complexity = float(mean_over_ranks(torch.tensor(measure_complexity(pairs), device=device)))
        return attach(
            model, self.config, example=few, complexity=self.complexity, sites=self._sites, inside=self._inside
        )

    def _found(self, logged: Mapping[str, Any]) -> dict[str, Any]:
        """The validation metrics in ``logged``.

        Raises:
            ConfigError: One that the settings use is not there.
        """
        used = used_metrics(self.config) if isinstance(self.config, EngineConfig) else set()
        found = {}
        for metric, name in self.names.items():
            if name is None:
                continue
            if name in logged:
                found[metric] = logged[name]
            elif metric in used:
                raise ConfigError(
                    f"the engine uses the {metric.replace('val_', 'validation ')}, but no metric is called {name!r}; "
                    f"there are: {', '.join(map(str, logged)) or 'none'}. Log it, give its name as {metric}=, or "
                    f"{metric}=None to do without"
                )
        return found

    def _refresh(self, epoch: float, epochs: int, metrics: Mapping[str, Any]) -> None:
        engine = self.attached()
        if engine.needs_probe and self._batch is not None:
            engine.probe(*self._batch)
        engine.step(epoch=min(epoch, epochs), epochs=epochs, **metrics)

    def _forget(self) -> None:
        self._batch, self._loss, self._count = None, 0.0, 0


def _settings(given: Given) -> tuple[EngineConfig | Baseline, float | None]:
    """The settings that a user gave, and the complexity of the data if it is known."""
    if isinstance(given, str | os.PathLike):
        given = load(given)
    if isinstance(given, Exported):
        return given.engine, given.complexity
    if isinstance(given, Engine):
        return given.config, None
    if isinstance(given, EngineConfig | Baseline):
        return given, None
    raise ConfigError(
        "give the file of an exported configuration, a dropopt.EngineConfig, a dropopt.Baseline, or an engine that "
        f"dropopt.attach returned; got {type(given).__name__}"
    )
