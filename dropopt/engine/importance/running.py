"""What to spare: scores of a layer's features that training itself gives away.

Each score is a function of a few samples of the activation at a mask, and of the gradient behind it, (M, C, *spatial)
in float32, and returns (C,), summed over the M samples. Scores that need passes of their own are in ``probes``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dropopt import equations


def activation_score(x: Tensor) -> Tensor:
    """Activation summed over the region where each map responds strongly, per position ("Feature Importance").

    The region is where |activation| is at least the map's own mean, so a filter that answers strongly in one
    place counts for more than one that hums everywhere.
    """
    maps = x.abs().flatten(2) if x.ndim > 2 else x.abs().unsqueeze(-1)  # (M, C, positions)
    region = maps >= maps.mean(-1, keepdim=True)
    return (maps * region).mean(-1).sum(0)


def taylor_score(x: Tensor, gradient: Tensor) -> Tensor:
    """|sum over positions of activation x gradient|: first-order change of the loss if the map were removed.

    Molchanov et al., 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", eq. 8.
    """
    product = x * gradient
    change = product.sum(tuple(range(2, x.ndim))) if x.ndim > 2 else product
    return change.abs().sum(0)


def moments(x: Tensor) -> Tensor:
    """First and second moment of each feature over positions, summed over samples, (2, C)."""
    maps = x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1)
    return torch.stack([maps.mean(-1).sum(0), maps.square().mean(-1).sum(0)])


def from_totals(kind: str, totals: Tensor, count: Tensor) -> Tensor:
    """Importance (C,) from ``totals`` (rows, C) accumulated over ``count`` samples."""
    mean = totals / count
    if kind == "statistical":  # eq. (12)
        return torch.as_tensor(equations.probabilistic_importance(mean[0], (mean[1] - mean[0].square()).clamp(min=0)))
    return mean[0]


#: Rows that each kind accumulates; of the others, probes set the importance directly.
ROWS = {"activation": 1, "taylor": 1, "statistical": 2}

#: Those that the forward pass alone gives.
FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "activation": lambda x: activation_score(x).unsqueeze(0),
    "statistical": moments,
}
