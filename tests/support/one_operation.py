"""One operation under relevance propagation, with random inputs and a random relevance of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dropopt.engine.importance.lrp.relevance import RelevanceMode

TINY = 1e-12  # epsilon for the limit epsilon -> 0


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def passed(operation: Callable[..., Any], *inputs: Tensor, rule: str = "epsilon") -> tuple[Any, Tensor, list[Tensor]]:
    """Return the output within the mode, a random relevance of the output, and that of each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with RelevanceMode(rule, TINY):
        output = operation(*(leaf.clone() for leaf in leaves))
    y = output[0] if isinstance(output, tuple) else output
    r = numbers(*y.shape, seed=99)
    found = torch.autograd.grad(y, leaves, r, allow_unused=True)
    return output, r, [torch.zeros_like(x) if f is None else f for f, x in zip(found, inputs, strict=True)]


def pulled(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """Return the gradient of the sum of r * function(x)."""
    gradient: Tensor = torch.autograd.functional.vjp(function, x, r)[1]
    return gradient


def in_proportion(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Relevance of the first input of a linear function: each contribution to an output has its share of it."""
    return lambda x, *others: x * pulled(function, x, others[-1] / others[-2])


def redistributed(weight: Tensor, x: Tensor, bias: Tensor, relevance: Tensor, positive: bool) -> Tensor:
    """Relevance of the inputs (I,) of a dense layer, unit by unit: R_i = sum_k w_ki x_i / (sum_l w_kl x_l + b_k) R_k.

    If ``positive``, the sums are over the contributions with the sign of the unit's output.
    """
    out = torch.zeros_like(x)
    for row, b, r in zip(weight, bias, relevance, strict=True):
        parts = row * x
        if positive:
            sign = 1 if parts.sum() + b >= 0 else -1
            parts, b = (sign * parts).clamp(min=0), (sign * b).clamp(min=0)
        total = parts.sum() + b
        if total != 0:
            out += parts / total * r
    return out
