"""DropoutCallback: an engine in the Trainer of Hugging Face transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dropopt.config import ConfigError
from dropopt.engine import Engine, Inside
from dropopt.engine.places.place import Selector
from dropopt.files import load_tensors, save_tensors
from dropopt.integrations.driver import Driver, Given, Unpack, unpack
from dropopt.integrations.missing import missing

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import IntervalStrategy
except ImportError as error:
    raise missing("transformers", error) from None

#: The file in a checkpoint's folder that holds the state of the engine.
STATE = "dropopt.pt"


class DropoutCallback(TrainerCallback):
    """Attaches an engine when training starts, updates its rates, and keeps its state in the Trainer's checkpoints.

    The model has to be an image classifier, whose inputs and labels are arguments of ``forward``. With
    ``eval_strategy="epoch"`` the rates are updated with the metrics of each evaluation, and otherwise after each epoch.

    Args:
        engine: The file of an exported configuration, ``EngineConfig``, ``Baseline``, or an attached engine.
        val_loss: Name of the evaluation's loss, in nats; None if there is none.
        val_accuracy: Name of the evaluation's accuracy, in [0, 1], which ``compute_metrics`` returns; None if there is
            none.
        complexity: D_complexity of eq. (9), in [0, 1]. Default: that of the file, or else measured on one pass over the
            training batches.
        sites: Overrides the setting ``sites``.
        inside: What happens to dropout that the network has; see :func:`dropopt.attach`.
        unpack: A function (batch) -> (inputs, labels). Default: mappings with the usual keys.
        resume_from: The folder of the checkpoint, where it is not in ``output_dir``.

    Example:
        ``Trainer(model, arguments, ..., callbacks=[DropoutCallback("best.yaml")]).train()``
    """

    def __init__(
        self,
        engine: Given,
        *,
        val_loss: str | None = "eval_loss",
        val_accuracy: str | None = "eval_accuracy",
        complexity: float | None = None,
        sites: Selector | None = None,
        inside: Inside | None = None,
        unpack: Unpack = unpack,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> None:
        self._driver = Driver(
            engine, val_loss, val_accuracy, complexity=complexity, sites=sites, inside=inside, unpack=unpack
        )
        self._resume_from = resume_from
        self._handle: Any = None

    @property
    def engine(self) -> Engine:
        """The engine, from the start of training on."""
        return self._driver.attached()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the engine, and continue from the checkpoint from which the Trainer continues."""
        model: nn.Module = kwargs["model"]
        if state.global_step:
            self._driver.load_state_dict(self._load(args, state))
        self._driver.start(model, lambda: kwargs["train_dataloader"], [kwargs["optimizer"]])
        self._handle = model.register_forward_hook(self._after_forward, with_kwargs=True)

    def _after_forward(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if model.training and torch.is_grad_enabled():
            try:
                self._driver.batch_ended(kwargs or args, _loss(kwargs, output))
            except ConfigError as error:
                raise ConfigError(
                    f"{error}. With label_smoothing_factor or compute_loss_func, the model gets no labels; "
                    "for an importance by a probe (gradient, lrp, composite), let the model compute this loss"
                ) from None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refresh the rates if a step is due."""
        last = float(state.epoch or 0.0).is_integer()
        self._driver.step_ended(state.global_step, *_done(state), last=last)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refresh the rates, unless an evaluation follows."""
        if args.eval_strategy != IntervalStrategy.EPOCH:
            self._driver.epoch_ended(*_done(state), None)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refresh the rates with the metrics of the evaluation."""
        if self._driver.running:
            self._driver.epoch_ended(*_done(state), kwargs["metrics"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state of the engine beside the weights."""
        if state.is_world_process_zero and self._driver.running:
            save_tensors(_folder(args, state) / STATE, self._driver.state_dict())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach the engine."""
        self._driver.stop()
        if self._handle is not None:
            self._handle.remove()

    def _load(self, args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
        folder = _folder(args, state) if self._resume_from is None else Path(self._resume_from)
        try:
            return load_tensors(folder / STATE)
        except FileNotFoundError:
            raise ConfigError(
                f"{folder / STATE} does not exist: the checkpoint was written without this callback, or lies "
                "elsewhere; give its folder as DropoutCallback(..., resume_from=FOLDER)"
            ) from None


def _done(state: TrainerState) -> tuple[float, int]:
    """Epochs done, and epochs of the training; one that ends within an epoch, by ``max_steps``, is done at its end."""
    return state.num_train_epochs * state.global_step / state.max_steps, state.num_train_epochs


def _loss(given: Mapping[str, Any], output: Any) -> Tensor | None:
    """The mean loss over the samples of a batch; None if the model returns none.

    Where gradients are accumulated, the Trainer gives the number of samples of all batches that it accumulates. Some
    models, but not all, divide by this number instead of that of the batch.
    """
    loss, logits = (
        output.get(name) if isinstance(output, Mapping) else getattr(output, name, None) for name in ("loss", "logits")
    )
    labels, accumulated = given.get("labels"), given.get("num_items_in_batch")
    if not isinstance(loss, Tensor):
        return None
    if accumulated is None or not isinstance(labels, Tensor) or not isinstance(logits, Tensor):
        return loss
    if labels.ndim != 1 or labels.is_floating_point() or logits.ndim != 2:
        return loss
    with torch.no_grad():
        expected = F.cross_entropy(logits.float(), labels)
        whole = loss * accumulated / len(labels)
        return torch.where((whole - expected).abs() < (loss - expected).abs(), whole, loss)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
