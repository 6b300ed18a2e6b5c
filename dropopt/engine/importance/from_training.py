"""Feature importance from training's own passes: ``activation``, ``taylor`` and ``statistical``.

Each score is a function of the activation before a mask and, for ``taylor``, of the gradient after it. Both are
(M, C, *spatial) in float32, for M of the batch's samples. It returns the sum over these samples, (C,). Scores that need
passes of their own are in ``probes.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dropopt import equations
from dropopt.config import Importance


def activation_score(x: Tensor) -> Tensor:
    """Return the activation summed over the region of strong response, divided by the number of positions.

    The region is where |activation| is at least the mean of the feature's own map, so a filter that responds strongly
    in one place scores higher than one that responds weakly everywhere. From "Feature Importance".
    """
    maps = x.abs().flatten(2) if x.ndim > 2 else x.abs().unsqueeze(-1)  # (M, C, positions)
    region = maps >= maps.mean(-1, keepdim=True) * (1 - 1e-6)  # a constant map counts, even if its mean is rounded up
    return (maps * region).mean(-1).sum(0)


def taylor_score(x: Tensor, gradient: Tensor) -> Tensor:
    """Return |sum over positions of activation x gradient|: first-order change of the loss without the feature.

    Molchanov et al., 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", eq. 8.
    """
    product = x * gradient
    change = product.sum(tuple(range(2, x.ndim))) if x.ndim > 2 else product
    return change.abs().sum(0)


def moments(x: Tensor) -> Tensor:
    """Return the first and second moment of each feature over positions, summed over samples, (2, C)."""
    maps = x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1)
    return torch.stack([maps.mean(-1).sum(0), maps.square().mean(-1).sum(0)])


def from_totals(kind: Importance, totals: Tensor, count: Tensor) -> Tensor:
    """Return the importance (C,) from ``totals`` (rows, C), accumulated over ``count`` samples."""
    mean = totals / count
    if kind == "statistical":  # eq. (12)
        return cast("Tensor", equations.probabilistic_importance(mean[0], (mean[1] - mean[0].square()).clamp(min=0)))
    return mean[0]


#: Rows of the totals that each kind accumulates. Other kinds are set by probes.
ROWS: dict[Importance, int] = {"activation": 1, "taylor": 1, "statistical": 2}

#: Kinds that the forward pass alone gives.
FORWARD: dict[Importance, Callable[[Tensor], Tensor]] = {
    "activation": lambda x: activation_score(x).unsqueeze(0),
    "statistical": moments,
}
