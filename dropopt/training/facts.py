"""The facts of a run: what its data and its network are, in numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from dropopt.engine import OwnDropout, OwnFunction
from dropopt.facts import Facts
from dropopt.inputs import parts
from dropopt.modules import dropout_layers
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.reading import OwnBatches
from dropopt.training.data.stream import Stream
from dropopt.training.task import IGNORED, SOME


def facts_of(
    data: Dataset, model: nn.Module, places: Iterable[str], own: Collection[OwnDropout | OwnFunction] = ()
) -> Facts:
    """Count the images, the classes, the parameters and the dropout layers of a run.

    Args:
        data: The data set.
        model: The network.
        places: The names of the modules at which the engine drops features.
        own: The dropout of the network itself at these places.

    Returns:
        The facts, for the header of a study, its note and its report.
    """
    share = 0.0
    known = data.train.sample
    if data.classes and known.labels.ndim == 1:
        counts = torch.bincount(known.labels, minlength=len(data.classes))
        share = round(float(counts.max() / counts.sum()), 4)
    inputs = parts(known.images)
    functions = sum(isinstance(one, OwnFunction) for one in own)
    return Facts(
        images={name: len(split) for name, split in data.splits().items()},
        shape=list(next(iter(inputs.values())).shape[1:]),
        classes=len(data.classes),
        largest_share=share,
        parameters=sum(one.numel() for one in model.parameters() if one.requires_grad),
        places=list(places),
        dropout_inside=sum(one.p > 0 for one in dropout_layers(model)) + functions,
        dropout_at_places=len(own),
        inputs={name: list(part.shape[1:]) for name, part in inputs.items()} if len(inputs) > 1 else {},
        own_batches=isinstance(data.train, Stream) and isinstance(data.train.reader, OwnBatches),
        guess=_guess(known.labels, data.validation.sample.labels),
    )


def _guess(
    train: Tensor,  # (N, ...)
    validation: Tensor,  # (N, ...)
) -> float:
    """The accuracy in ``validation`` of the answer that is the most frequent one in ``train``, for facts.

    The answer is one class, also of masks, or for several labels (N, labels) of 0 and 1 one value for each of them. It
    is 0 for other targets, such as whole numbers that are too large to be classes.
    """
    train = train[:: 1 + train.numel() // SOME]
    two_values = all(((part == 0) | (part == 1)).all() for part in (train, validation))
    told = validation != IGNORED
    numbers = train[train != IGNORED]
    if two_values and train.ndim == 2:
        answer = train.double().mean(0) > 1 / 2
    elif (two_values or not train.is_floating_point()) and len(numbers) and 0 <= numbers.min() <= numbers.max() < SOME:
        answer = torch.bincount(numbers.long()).argmax()
    else:
        return 0.0
    return float(((validation == answer) & told).sum() / told.sum().clamp(min=1))
