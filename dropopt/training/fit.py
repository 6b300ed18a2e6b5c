"""fit: train a network, with or without a dropout engine, and keep its best epoch.

Three kinds of randomness are independent of each other. The order of the data and the augmentation have streams of
their own, functions of the seed and the epoch only. Dropout masks are drawn from torch's global stream, which is seeded
at the start and restored at the end. Hence another drop rate changes neither the order of the data nor the
augmentation of an image, and a checkpoint needs to hold only one random state.

Nothing inside an epoch waits for the device: losses stay on it until the epoch ends.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError, TrainConfig
from dropopt.engine import Engine
from dropopt.inputs import Inputs, parts, run_model
from dropopt.randomness import global_stream
from dropopt.training.checkpoint import read_checkpoint, write_checkpoint
from dropopt.training.data.dataset import Dataset
from dropopt.training.device import resolve_device
from dropopt.training.evaluate import autocast, evaluate
from dropopt.training.feed import feed_of
from dropopt.training.optim import learning_rate, make_optimizer
from dropopt.training.rates import Rates, rates_of
from dropopt.training.results import DivergedError, EpochReport, TrainResult, smoothed
from dropopt.training.task import Task

OnEpoch = Callable[[EpochReport], None]


def fit(
    model: nn.Module,
    engine: Engine | None,
    data: Dataset,
    config: TrainConfig,
    on_epoch: OnEpoch | None = None,
    *,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
    task: Task | None = None,
) -> TrainResult:
    """Train a model on the training split and validate it after each epoch. The test split is not used.

    Args:
        model: Maps images (N, C, H, W) to logits (N, classes). It is moved to ``config.device``, trained in place, and
            ends with the weights of the epoch that has the lowest smoothed validation loss, or the best smoothed
            metric if ``task`` is judged by it.
        engine: What :func:`dropopt.attach` returned for ``model``; its drop rates are updated after each epoch,
            and every ``update_every`` steps if that is set. None to train without it.
        data: Training and validation images, from :func:`load_data` or your own :class:`Dataset`.
        config: Epochs, batch size, optimizer, learning rate and its schedule, augmentation, precision, device, seed.
        on_epoch: Called with the :class:`EpochReport` of each epoch. If it raises, training ends and the exception
            propagates.
        checkpoint: A file that is written after each epoch, once ``on_epoch`` has returned. A later call with the same
            arguments continues from it. On a CPU it ends with bit-identical results; only the epoch that was
            interrupted is trained, and reported, again.
        on_resume: Called once with the reports of the epochs before the checkpoint, if training continues from one.
        task: Another loss and metric than cross-entropy and accuracy. Its metric is reported as ``val_accuracy``.

    Returns:
        The best epoch, its validation loss and accuracy, the objective of the last epoch, and all reports.

    Raises:
        DivergedError: If a loss is not finite; checked at the end of each epoch.
        ConfigError: If the device does not exist, the model has nothing to train, or it does not return logits.

    Example:
        >>> from dropopt.config import TrainConfig
        >>> from dropopt.training import Split
        >>> labels = torch.arange(40) % 2
        >>> images = labels.float().view(40, 1, 1, 1).expand(40, 1, 4, 4)
        >>> split = Split(images, labels)
        >>> data = Dataset("bright or dark", ("dark", "bright"), train=split, validation=split, test=split)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> result = fit(model, None, data, TrainConfig(epochs=3, batch_size=8, device="cpu"))
        >>> len(result.history), result.best_val_accuracy
        (3, 1.0)
    """
    device = resolve_device(config.device)
    with global_stream(config.seed, "dropout", device=device):
        training = _Training(model, engine, data, config, device, task or Task())
        if checkpoint is not None:
            training.resume(checkpoint)
            if on_resume is not None and training.history:
                on_resume(list(training.history))
        while not training.finished:
            report = training.epoch()
            if on_epoch is not None:
                on_epoch(report)
            if checkpoint is not None:
                training.save(checkpoint)
        return training.result()


class _Training:
    """A training in progress: everything that changes from epoch to epoch."""

    def __init__(
        self,
        model: nn.Module,
        engine: Engine | None,
        data: Dataset,
        config: TrainConfig,
        device: torch.device,
        task: Task,
    ) -> None:
        task.check(data)
        if config.augment and not data.classes:
            raise ConfigError("augment changes images but not their targets, so it needs classes; remove it")
        self.model, self.engine, self.config, self.device, self.task = model, engine, config, device, task
        model.to(device)
        if config.channels_last and any(part.ndim == 4 for part in parts(data.train.head(1).images).values()):
            model.to(memory_format=torch.channels_last)
        self.feed = feed_of(data.train, config, device)
        self.steps = self.feed.steps
        self.validation = data.validation.to(device)
        self.identity = _identity(model, engine, data, config, task)
        self.optimizer = make_optimizer(model, config)
        if engine is not None:
            engine.watch(self.optimizer)
        #: Steps between updates of the rates within an epoch; None to update after each epoch only.
        self.every = engine.update_every if engine is not None else None
        self.history: list[EpochReport] = []
        self.best: dict[str, Any] = {}
        self.best_rates: Rates = {}

    # -- progress

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the lowest objective so far; 0 before the first."""
        return min(self.history, key=lambda report: report.objective).epoch if self.history else 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` epochs have passed since the best one."""
        done, patience = len(self.history), self.config.patience
        return done >= self.config.epochs or (patience is not None and done - self.best_epoch >= patience)

    def result(self) -> TrainResult:
        """Load the best weights into the model and summarise the training."""
        self.model.load_state_dict(self.best)
        best = self.history[self.best_epoch - 1]
        last = self.history[-1]
        scores = best.val_loss, best.val_accuracy
        return TrainResult(
            last.smoothed_loss, best.epoch, *scores, self.history, self.best_rates, objective=last.objective
        )

    # -- one epoch

    def epoch(self) -> EpochReport:
        """Train and validate one epoch, keep its weights if they are the best, and update the engine's rates."""
        began = time.perf_counter()
        number, config = len(self.history) + 1, self.config
        train_loss, batch = self._train_epoch(number)
        val_loss, val_accuracy = evaluate(self.model, self.validation, config, self.task)
        if not math.isfinite(val_loss):
            raise DivergedError(number, self.steps, val_loss, "validation loss")
        engine, task = self.engine, self.task
        losses = [report.val_loss for report in self.history] + [val_loss]
        costs = [task.cost(report.val_loss, report.val_accuracy) for report in self.history]
        costs.append(task.cost(val_loss, val_accuracy))
        if not math.isfinite(costs[-1]):
            raise DivergedError(number, self.steps, val_accuracy, "task.metric")
        report = EpochReport(
            epoch=number,
            epochs=config.epochs,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            smoothed_loss=smoothed(losses, config.smooth)[-1],
            objective=smoothed(costs, config.smooth)[-1],
            lr=self._rate(number, self.steps - 1),
            seconds=time.perf_counter() - began,
            rates=engine.rates() if engine is not None else [],
            weights=engine.weights() if engine is not None else {},
        )
        rates = rates_of(engine)  # those of this epoch: the refresh sets those of the next
        performance = task.performance(val_accuracy)
        self._refresh(batch, float(number), val_loss=val_loss, train_loss=train_loss, val_accuracy=performance)
        self.history.append(report)
        if self.best_epoch == number:
            self.best_rates = rates
            self.best = copy.deepcopy(self.model.state_dict())  # deep: a state dict may contain more than tensors
        return report

    def _train_epoch(self, number: int) -> tuple[float, tuple[Inputs, Tensor]]:
        """Take all steps of an epoch; return its mean loss and its last batch."""
        losses, sizes = [], []
        self.model.train()
        for step, (images, labels) in enumerate(self.feed.epoch(number)):
            losses.append(self._step(images, labels, self._rate(number, step)))
            sizes.append(len(labels))
            taken = (number - 1) * self.steps + step + 1
            if self.every and taken % self.every == 0 and step + 1 < self.steps:
                self._refresh((images, labels), taken / self.steps)
        if not losses:
            raise ConfigError(f"epoch {number} has no training samples: the loader is exhausted")
        return self._mean(torch.stack(losses).float(), sizes, number), (images, labels)

    def _step(self, images: Inputs, labels: Tensor, rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)  # groups of earlier checkpoints have none
        with autocast(self.config, self.device):
            outputs = run_model(self.model, images)
        loss = self.task.training_loss(outputs, labels, self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        detached: Tensor = loss.detach()
        return detached

    def _mean(self, losses: Tensor, sizes: list[int], number: int) -> float:
        """Mean loss per image, from each step's mean loss. This is the only place that waits for the device."""
        values: list[float] = losses.tolist()
        for step, loss in enumerate(values, start=1):
            if not math.isfinite(loss):
                raise DivergedError(number, step, loss)
        return math.fsum(loss * size for loss, size in zip(values, sizes, strict=True)) / sum(sizes)

    def _rate(self, number: int, step: int) -> float:
        """Learning rate of ``step`` (from 0) in epoch ``number`` (from 1)."""
        share = ((number - 1) + min(step / self.steps, 1.0)) / self.config.epochs
        return learning_rate(self.config, share)

    def _refresh(self, batch: tuple[Inputs, Tensor], epoch: float, **metrics: float | None) -> None:
        """Show the engine a batch if it needs one, and let it update its rates."""
        if self.engine is None:
            return
        if self.engine.needs_probe:
            self.engine.probe(*batch)
        self.engine.step(epoch=epoch, epochs=self.config.epochs, **metrics)

    # -- checkpoints

    def save(self, path: Path) -> None:
        """Write the checkpoint at ``path``."""
        state = {
            "model": self.model.state_dict(),
            "best": self.best,
            "best_rates": self.best_rates,
            "optimizer": self.optimizer.state_dict(),
            "engine": self.engine.state_dict() if self.engine is not None else {},
        }
        write_checkpoint(path, self.identity, state, self.history, self.device)

    def resume(self, path: Path) -> None:
        """Continue from the checkpoint at ``path`` if it is usable and belongs to this run."""
        found = read_checkpoint(path, self.identity, self.device)
        if found is None:
            return
        state, self.history = found
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.best_rates = state.get("best_rates", {})  # absent from checkpoints of earlier versions
        if self.engine is not None:
            self.engine.load_state_dict(state["engine"])


def _identity(model: nn.Module, engine: Engine | None, data: Dataset, config: TrainConfig, task: Task) -> str:
    """Hash of what a checkpoint and the run that continues from it must share: recipe, engine, network and data."""
    facts: dict[str, Any] = {
        # Earlier checkpoints have no lr_scale.
        "train": config.model_dump(mode="json", exclude={"device"} if config.lr_scale else {"device", "lr_scale"}),
        "engine": engine.config.model_dump(mode="json") if engine is not None else None,
        "model": {name: list(getattr(value, "shape", ())) for name, value in model.state_dict().items()},
        "data": [data.fingerprint.get(name) or len(data.splits()[name]) for name in ("train", "validation")],
    }
    if task != Task():  # earlier checkpoints have no task
        names = [getattr(part, "__qualname__", str(part)) for part in (task.loss, task.metric)]
        facts["task"] = [*names, task.maximize, task.by_metric]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
