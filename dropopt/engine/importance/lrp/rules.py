"""zennit's rules, and what they act on: one operation as a module, and a graph node that propagates relevance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook
from zennit.rules import Epsilon, Norm, ZPlus

Stabiliser = Callable[[Tensor], Tensor]


class Op(nn.Module):
    """One operation with its weight and bias, as a module that zennit's rules accept."""

    def __init__(
        self, function: Callable[..., Tensor], weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.function = function
        self.weight = None if weight is None else nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.mergeable = False  # whether a BatchNorm directly after may be merged into the weights
        self.gates = False  # whether the output is a gate, which takes no relevance from its signal

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of the operation on ``x``."""
        return self.function(x) if self.weight is None else self.function(x, self.weight, self.bias)

    def negated(self) -> Op:
        """Return the layer with the negated output."""
        weight, bias = (None if parameter is None else -parameter for parameter in (self.weight, self.bias))
        return Op(self.function, weight, bias)


class SignedPlus(ZPlus):  # type: ignore[misc]  # zennit is untyped
    """z+ where a unit's output is positive; z+ of the negated layer where it is negative.

    Before a ReLU, negative outputs carry no relevance, and this equals zennit's z+. Elsewhere (SiLU, linear
    bottlenecks) they carry relevance that comes from negative contributions. z+ ignores these, so it would lose this
    relevance.
    """

    def __init__(self, stabilizer: Stabiliser) -> None:
        super().__init__(stabilizer=stabilizer)

    def backward(self, module: Op, grad_input: Any, grad_output: Any) -> Any:
        """Return the relevance of the input, given that of the output."""
        (relevance,) = grad_output
        with torch.no_grad():
            output = module.forward(self.stored_tensors["input"][0])
        below = relevance.masked_fill(output >= 0, 0)
        if not below.any():
            return super().backward(module, grad_input, grad_output)
        (positive,) = super().backward(module, grad_input, (relevance - below,))
        (negative,) = super().backward(module.negated(), grad_input, (below,))
        return (positive + negative,)


#: By name, a function from the stabiliser of denominators to the rules of (convolutions, dense layers).
RULES: dict[str, Callable[[Stabiliser], tuple[Hook, Hook]]] = {
    "epsilon_plus": lambda s: (SignedPlus(s), Epsilon(epsilon=s)),
    "epsilon": lambda s: (Epsilon(epsilon=s), Epsilon(epsilon=s)),
    "z_plus": lambda s: (SignedPlus(s), SignedPlus(s)),
}


@dataclass(frozen=True)
class Rules:
    """zennit's rule for each kind of operation."""

    convolution: Hook
    dense: Hook
    proportional: Hook  # sums and means


def rules(name: str, epsilon: float) -> Rules:
    """Return the rules with this name, a key of RULES; raise ValueError if there is none."""
    if name not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {name!r}")
    stabiliser = _stabiliser(epsilon)
    convolution, dense = RULES[name](stabiliser)
    return Rules(convolution, dense, Norm(stabiliser))


def run(x: Tensor, op: Op, rule: Hook) -> Tensor:
    """Return ``op(x)``, through which a copy of ``rule`` propagates relevance."""
    output: Tensor = _Relevance.apply(x, op, rule.copy())
    return output


class _Relevance(torch.autograd.Function):
    """Runs an operation in the forward pass, and redistributes relevance by a rule in the backward pass.

    The input is saved as a copy, which in-place operations cannot change.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: Op, rule: Hook) -> Tensor:
        ctx.op, ctx.rule = op, rule
        if isinstance(rule, BasicHook):
            rule.stored_tensors |= {"input": (x.detach().clone(),), "kwargs": {}}  # zennit 1.0 reads both
        return op.forward(x)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None, None]:
        stored = ctx.rule.stored_tensors.get("input")
        return ctx.rule.backward(ctx.op, stored, relevance)[0], None, None


def _stabiliser(epsilon: float) -> Stabiliser:
    def stabilised(z: Tensor) -> Tensor:
        size = z.abs().mean(tuple(range(1, z.ndim)) or None, keepdim=True)
        return z + (epsilon * size).clamp(min=1e-30).copysign(z)

    return stabilised
