"""What zennit's rules act on: one operation that ran, as a module, and the node that propagates through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook
from zennit.rules import Epsilon, Norm, ZPlus

#: What is added to a layer's denominators, in units of their mean size in the sample: too small to shift relevance, in
#: a network of any scale (one with fresh BatchNorm statistics can shrink its activations by ten powers of ten).
EPSILON = 1e-6

#: zennit's ``EpsilonPlus``: z+ keeps the relevance of deep convolutional stacks positive and free of noise, epsilon
#: keeps dense layers faithful to the class. Pruning by relevance uses z+ as well (Yeom et al., 2021).
RULE = "epsilon_plus"

Stabiliser = Callable[[Tensor], Tensor]


class Op(nn.Module):
    """One operation that ran, with what it took beside its input: the form in which zennit's rules take it."""

    def __init__(
        self, function: Callable[..., Tensor], weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.function = function
        self.weight = None if weight is None else nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.mergeable = False  # a BatchNorm right behind may be merged into the weights
        self.gates = False  # the output steers a signal, and takes no relevance from it

    def forward(self, x: Tensor) -> Tensor:
        """What the operation gives for ``x``."""
        return self.function(x) if self.weight is None else self.function(x, self.weight, self.bias)

    def negated(self) -> Op:
        """The layer that gives the opposite output."""
        return Op(
            self.function, None if self.weight is None else -self.weight, None if self.bias is None else -self.bias
        )


class SignedPlus(ZPlus):  # type: ignore[misc]  # zennit is untyped
    """z+ where a unit's output is positive; where it is negative, z+ of the opposite layer.

    Behind a ReLU, negative outputs carry no relevance and this is zennit's z+. Elsewhere (SiLU, linear bottlenecks)
    they do, made by negative contributions that z+ would not see: their relevance would be lost.
    """

    def __init__(self, stabilizer: Stabiliser) -> None:
        super().__init__(stabilizer=stabilizer)

    def backward(self, module: Op, grad_input: Any, grad_output: Any) -> Any:
        """Relevance of the input, from that of the output."""
        (relevance,) = grad_output
        with torch.no_grad():
            output = module.forward(self.stored_tensors["input"][0])
        below = relevance.masked_fill(output >= 0, 0)
        if not below.any():
            return super().backward(module, grad_input, grad_output)
        (positive,) = super().backward(module, grad_input, (relevance - below,))
        (negative,) = super().backward(module.negated(), grad_input, (below,))
        return (positive + negative,)


#: Rule of (convolutions, dense layers) by name, given what keeps denominators from zero.
RULES: dict[str, Callable[[Stabiliser], tuple[Hook, Hook]]] = {
    "epsilon_plus": lambda s: (SignedPlus(s), Epsilon(epsilon=s)),
    "epsilon": lambda s: (Epsilon(epsilon=s), Epsilon(epsilon=s)),
    "z_plus": lambda s: (SignedPlus(s), SignedPlus(s)),
}


@dataclass(frozen=True)
class Rules:
    """Which of zennit's rules propagates through which kind of operation."""

    convolution: Hook
    dense: Hook
    proportional: Hook  # sums and means


def rules(name: str, epsilon: float) -> Rules:
    """Rules by name (a key of RULES). Raises ValueError for another."""
    if name not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {name!r}")
    stabiliser = _stabiliser(epsilon)
    convolution, dense = RULES[name](stabiliser)
    return Rules(convolution, dense, Norm(stabiliser))


def run(x: Tensor, op: Op, rule: Hook) -> Tensor:
    """Output of ``op`` on ``x``, with a copy of ``rule`` behind it."""
    output: Tensor = _Relevance.apply(x, op, rule.copy())
    return output


class _Relevance(torch.autograd.Function):
    """Runs an operation; what comes back is relevance, redistributed by a rule.

    The input is kept as a copy, beyond the reach of in-place operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: Op, rule: Hook) -> Tensor:
        ctx.op, ctx.rule = op, rule
        if isinstance(rule, BasicHook):
            rule.stored_tensors["input"] = (x.detach().clone(),)
        return op.forward(x)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None, None]:
        stored = ctx.rule.stored_tensors.get("input", relevance)
        return ctx.rule.backward(ctx.op, stored, relevance)[0], None, None


def _stabiliser(epsilon: float) -> Stabiliser:
    def stabilised(z: Tensor) -> Tensor:
        size = z.abs().mean(tuple(range(1, z.ndim)) or None, keepdim=True)
        return z + (epsilon * size).clamp(min=1e-30).copysign(z)

    return stabilised
