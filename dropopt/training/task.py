"""Task: what a network is trained for. Its loss, its metric, and which of them a training is judged by.

The default is classification: cross-entropy and accuracy, judged by the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dropopt.config import ConfigError, TaskConfig
from dropopt.explain import suggestion
from dropopt.numbers import short
from dropopt.owncode import is_own, own_errors, own_function
from dropopt.training.data.split import Split

if TYPE_CHECKING:
    from dropopt.training.data.dataset import Dataset

#: From the outputs of the network and the targets of a batch to the mean loss, a tensor with one number.
Loss = Callable[[Any, Tensor], Tensor]
#: From the outputs and the targets of the whole validation split to a number.
Metric = Callable[[Any, Tensor], Any]

#: The class number of pixels that have none; torch's cross-entropy ignores it by default.
IGNORED = -100


def cross_entropy(outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (N, classes, ...) and class numbers (N, ...), in nats.

    Positions with the number -100 are ignored; the loss is 0 if all of them are.
    """
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"the model must return logits in training as well, returned {type(outputs).__name__}")
    if not targets.is_floating_point() and outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        squeeze = "; give class numbers of shape (N,), as y.squeeze(1)" if targets.shape[1:] == (1,) else ""
        raise ConfigError(
            "task.loss cross_entropy takes logits (N, classes, ...) and class numbers (N, ...), got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}{squeeze}"
        )
    if targets.ndim < 2 or targets.is_floating_point():
        return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def accuracy(outputs: Any, targets: Tensor) -> Tensor:
    """Fraction of the targets that the outputs tell.

    Class numbers (N, ...) have the largest of the logits (N, classes, ...); -100 is ignored. Targets of 0 and 1 may
    have one logit each instead, (N, ...) or (N, 1, ...), which is above 0 for 1.

    Raises:
        ConfigError: Outputs and targets are something else.
    """
    if isinstance(outputs, Tensor):
        if outputs.ndim == targets.ndim + 1 and outputs.shape[1] > 1:
            if outputs.shape[:1] + outputs.shape[2:] == targets.shape and not targets.is_floating_point():
                return (outputs.argmax(1) == targets).sum().double() / (targets != IGNORED).sum()
        elif outputs.numel() == targets.numel() and ((targets == 0) | (targets == 1)).all():
            return ((outputs.reshape(targets.shape) > 0) == (targets > 0)).double().mean()
    given = f"outputs {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
    raise ConfigError(
        "task.metric accuracy takes logits (N, classes, ...) and class numbers (N, ...), or one logit for each target "
        f"of 0 or 1, got {given} and {str(targets.dtype).removeprefix('torch.')} targets {tuple(targets.shape)}; give "
        "another metric: loss or module:function"
    )


def _alike(loss: Callable[[Tensor, Tensor], Tensor], name: str) -> Loss:
    """``loss`` of outputs and targets of one shape; outputs (N, 1) fit targets (N,)."""

    def function(outputs: Any, targets: Tensor) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise ConfigError(f"task.loss {name} takes a model that returns a tensor, not {type(outputs).__name__}")
        outputs = outputs.float()
        if outputs.ndim == targets.ndim + 1 and outputs.shape[1] == 1:
            outputs = outputs.squeeze(1)
        if outputs.shape != targets.shape:  # torch would broadcast
            whole = targets.ndim == 1 and not targets.is_floating_point()
            advice = "; whole numbers count as classes, so give numbers to predict as floats" if whole else ""
            raise ConfigError(
                f"task.loss {name} takes outputs and targets of one shape, got {tuple(outputs.shape)} and "
                f"{tuple(targets.shape)}{advice}"
            )
        return loss(outputs, targets.float())

    return function


#: Targets of a regression whose mean is further from 0 than this many deviations, whose deviation is larger than the
#: second or whose range is smaller than the third are difficult: with them a small network, which explained 90% of the
#: variance of standardised targets, diverged or explained less than 20% at one usual learning rate or more.
FAR, WIDE, NARROW = 10.0, 30.0, 0.1
#: About how many numbers are looked at.
SOME = 10_000_000

#: Losses by name; the names are those of torch.nn.functional.
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse_loss": _alike(F.mse_loss, "mse_loss"),
    "l1_loss": _alike(F.l1_loss, "l1_loss"),
    "binary_cross_entropy_with_logits": _alike(F.binary_cross_entropy_with_logits, "binary_cross_entropy_with_logits"),
}
#: Metrics by name; None is the loss itself.
METRICS: dict[str, Metric | None] = {"accuracy": accuracy, "loss": None}


@dataclass(frozen=True)
class Task:
    """A loss, a metric and a judgement.

    Args:
        loss: From outputs and targets of a batch to the mean loss, a tensor with one number. It is minimised.
        metric: From the outputs and targets of the whole validation split to a number; None for the loss.
        maximize: Whether a higher metric is better.
        by_metric: Whether the best epoch, and a study's value, are those of the metric instead of the loss.

    Example:
        >>> task = Task(LOSSES["mse_loss"], metric=lambda y, target: (y - target).abs().max(), maximize=False)
        >>> task.loss(torch.ones(4, 1), torch.zeros(4)).item(), task.cost(0.25, 0.5)
        (1.0, 0.25)
    """

    loss: Loss = cross_entropy
    metric: Metric | None = accuracy
    maximize: bool = True
    by_metric: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether loss and metric are those of classification."""
        return self.loss is cross_entropy and self.metric is accuracy

    @property
    def is_binary(self) -> bool:
        """Whether each output is the logit of a target between 0 and 1."""
        return self.loss is LOSSES["binary_cross_entropy_with_logits"]

    def outputs(self, data: Dataset) -> int:
        """Number of outputs that a network needs: one logit is enough to tell two classes apart by binary loss."""
        return 1 if self.is_binary and len(data.classes) == 2 else data.outputs

    def needs_logits(self, data: Dataset) -> bool:
        """Whether the outputs must be logits (N, classes)."""
        return bool(data.classes) and not self.is_binary

    def check(self, data: Dataset) -> None:
        """Check that the targets are those of the loss.

        Raises:
            ConfigError: They are class numbers above 1, or none.
        """
        labels = data.train.labels if isinstance(data.train, Split) else data.train.head(1).labels
        if self.is_plain and not data.classes and labels.is_floating_point():
            raise ConfigError(
                f"{data.name} has targets that are no class numbers, for which cross-entropy is not defined; give the "
                "study another task, such as task={'loss': 'mse_loss', 'metric': 'loss'}"
            )
        if self.is_binary and not 0 <= float(labels.min()) <= float(labels.max()) <= 1:
            raise ConfigError(
                f"task.loss binary_cross_entropy_with_logits takes targets from 0 to 1, those of {data.name} are from "
                f"{float(labels.min()):g} to {float(labels.max()):g}; for class numbers give cross_entropy"
            )

    def remarks(self, data: Dataset) -> tuple[str, ...]:
        """What a user should know about the targets before training, one sentence each.

        A regression on targets far from 0, or of another scale than 1, diverges or learns nothing at usual learning
        rates. Losses of the user may change the scale themselves, and one-hot targets have none.
        """
        targets = data.train.sample.labels
        if self.loss not in (LOSSES["mse_loss"], LOSSES["l1_loss"]) or not targets.is_floating_point():
            return ()
        some = targets[:: 1 + targets.numel() // SOME].double()
        columns = some.movedim(1, -1).flatten(0, -2) if some.ndim > 1 else some[:, None]
        mean, deviation, extent = columns.mean(0), columns.std(0, correction=0), columns.amax(0) - columns.amin(0)
        odd = (mean.abs() > FAR * deviation) | (deviation > WIDE) | (extent < NARROW)
        odd &= ((columns != 0) & (columns != 1)).any(0)
        over = "" if columns.shape[1] == 1 else "0" if some.ndim == 2 else f"{(0, *range(2, some.ndim))}, keepdim=True"
        return tuple(
            f"targets of {data.name} have the mean {short(mean[one].item())} and the standard deviation "
            f"{short(deviation[one].item())}, from which training may diverge or learn nothing; standardise the "
            f"targets: return (y - y.mean({over})) / y.std({over})"
            for one in (odd & (extent > 0)).nonzero()[:1, 0].tolist()
        )

    def remarks_on_outputs(self, outputs: Any) -> tuple[str, ...]:
        """What a user should know about the outputs of the network before training, one sentence each.

        Cross-entropy takes logits. With probabilities it has hardly any gradient, and ends near that of a guess.
        """
        if (
            self.loss is not cross_entropy
            or not isinstance(outputs, Tensor)
            or outputs.ndim < 2
            or outputs.shape[1] < 2
        ):
            return ()
        sums = outputs.double().sum(1)
        if bool((outputs < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
            return ()
        return ("the network returns probabilities, where cross-entropy takes logits: remove its softmax",)

    def training_loss(self, outputs: Any, targets: Tensor, label_smoothing: float) -> Tensor:
        """Loss of a training batch; label smoothing applies to cross-entropy only.

        Raises:
            ConfigError: The loss is not a tensor with one number.
        """
        if self.loss is cross_entropy:
            return cross_entropy(outputs, targets, label_smoothing)
        loss = self.loss(_floats(outputs), targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"task.loss must return a tensor with one number, the mean over the batch; got {given}")
        return loss

    def weight(self, targets: Tensor) -> int:
        """What the mean loss of a batch counts for in that of a split: its samples, or pixels that are not ignored."""
        if self.loss is cross_entropy and targets.ndim > 1 and not targets.is_floating_point():
            return int((targets != IGNORED).sum())
        return len(targets)

    def cost(self, loss: float, metric: float) -> float:
        """What is minimised over epochs and trials: the loss, the metric, or 1 - metric if a higher one is better."""
        if not self.by_metric:
            return loss
        return 1 - metric if self.maximize else metric

    def performance(self, metric: float) -> float | None:
        """The metric as the engine's accuracy, if it is a fraction of which more is better; else None."""
        return metric if self.metric is not None and self.maximize and 0 <= metric <= 1 else None

    def measured(self, loss: float, outputs: Any, targets: Tensor) -> float:
        """The metric on all outputs.

        Raises:
            ConfigError: It is not a number.
        """
        if self.metric is None:
            return loss
        with own_errors("task.metric"):
            value = self.metric(outputs, targets)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"task.metric must return a number, got {value!r:.100}") from None


def task_of(config: TaskConfig) -> Task:
    """Return the task that the settings name.

    Raises:
        ConfigError: There is no such loss or metric.
    """
    loss = own_function(config.loss) if is_own(config.loss) else LOSSES.get(config.loss)
    if loss is None:
        known = [*LOSSES, "module:function"]
        raise ConfigError(f"task.loss {config.loss!r} is unknown; {suggestion(config.loss, known)}")
    if not is_own(config.metric) and config.metric not in METRICS:
        known = [*METRICS, "module:function"]
        raise ConfigError(f"task.metric {config.metric!r} is unknown; {suggestion(config.metric, known)}")
    metric = own_function(config.metric) if is_own(config.metric) else METRICS[config.metric]
    lower = config.direction == "minimize" or metric is None
    return Task(loss, metric, maximize=not lower, by_metric=config.objective == "metric")


def joined(outputs: list[Any]) -> Any:
    """Join the outputs of several batches: tensors, or tuples, lists and mappings of tensors."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, dict):
        return {key: joined([one[key] for one in outputs]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(joined(list(parts)) for parts in zip(*outputs, strict=True))
    raise ConfigError(f"the model must return tensors, returned {type(first).__name__}")


def _floats(outputs: Any) -> Any:
    return outputs.float() if isinstance(outputs, Tensor) and outputs.is_floating_point() else outputs
