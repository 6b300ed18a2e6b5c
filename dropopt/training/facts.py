"""The facts of a run: what its data and its network are, in numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dropopt.facts import Facts
from dropopt.training.data.dataset import Dataset


def facts_of(data: Dataset, model: nn.Module, places: Iterable[str]) -> Facts:
    """Count the images, the classes, the parameters and the dropout layers of a run.

    Args:
        data: The data set.
        model: The network.
        places: The names of the modules at which the engine drops features.

    Returns:
        The facts, for the header of a study, its note and its report.
    """
    share = 0.0
    if data.classes and data.train.labels.ndim == 1:
        counts = torch.bincount(data.train.labels, minlength=len(data.classes))
        share = round(float(counts.max() / counts.sum()), 4)
    return Facts(
        images={name: len(split) for name, split in data.splits().items()},
        shape=list(data.train.images.shape[1:]),
        classes=len(data.classes),
        largest_share=share,
        parameters=sum(one.numel() for one in model.parameters() if one.requires_grad),
        places=list(places),
        dropout_inside=sum(isinstance(one, _DropoutNd) and one.p > 0 for one in model.modules()),
    )
