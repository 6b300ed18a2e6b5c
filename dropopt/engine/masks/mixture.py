"""Eq. (15) as the law of total probability: each sample is masked by one method, in that method's own pattern.

A sample draws method m with probability w_m (the shares sum to 1) and is then masked at that method's rates:

    P(unit of feature i is dropped) = sum_m w_m r_m,i        eq. (15), feature by feature

The gate of method m is scaled by 1 / (1 - r_m,i), so E[x * gate] = x given the method, and therefore altogether.

The samples of one method are neighbours in the batch, so a pattern costs only what its own samples cost. The numbers
of samples are multinomial, and the first method starts at a random sample (the sequence wraps around the end of
the batch), so each sample draws method m with probability w_m wherever it lies in the batch.

Compiled code and CUDA graphs, whose sizes must not depend on data, draw a method for each sample instead and select
among the gates of all patterns. Features of one unit, as in a hidden layer, have one gate: their patterns are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dropopt.config import Method, Pattern
from dropopt.engine.masks.patterns import Gate, channel_gate, element_gate, is_traced
from dropopt.engine.masks.spatial import spatial_gate

#: The pattern of each method, in the order of METHODS.
OWN_PATTERN: dict[Method, Pattern] = {
    "adaptive": "element",
    "structured": "channel",
    "contextual": "channel",
    "pfid": "channel",
    "spatial": "spatial",
}


def pattern_gate(x: Tensor, pattern: Pattern, p: Tensor, block_size: int) -> Gate:
    """Draw a gate of one pattern, other than ``own``, with rates (1, *1) or (C, *1)."""
    if pattern == "element":
        return element_gate(x, p)
    return spatial_gate(x, p, block_size) if pattern == "spatial" and x.ndim > 2 else channel_gate(x, p)


class Part(NamedTuple):
    """The samples that one gate masks: one slice of the batch, or two if they wrap around its end."""

    pieces: tuple[slice, ...]
    gate: Gate


class MixtureGate(NamedTuple):
    """One gate for each part of the batch."""

    parts: tuple[Part, ...]

    @property
    def saved(self) -> tuple[Tensor, ...]:
        """The tensors of all parts, one after the other."""
        return tuple(tensor for part in self.parts for tensor in part.gate.saved)

    def without_saved(self) -> MixtureGate:
        """The same gate with empty tensors in place of its own."""
        return self.with_saved([torch.empty(0)] * len(self.saved))

    def with_saved(self, saved: Sequence[Tensor]) -> MixtureGate:
        """The same gate made of other tensors."""
        left = iter(saved)
        return MixtureGate(
            tuple(Part(pieces, gate.with_saved([next(left) for _ in gate.saved])) for pieces, gate in self.parts)
        )

    def times(self, x: Tensor) -> Tensor:
        """x * gate."""
        differentiable = torch.is_grad_enabled()
        masked = x.clone() if differentiable else torch.empty_like(x)
        for pieces, gate in self.parts:
            factor, first = gate.whole(), 0
            for piece in pieces:
                own = factor[first : first + piece.stop - piece.start]
                if differentiable:
                    masked[piece] = x[piece] * own
                else:
                    torch.mul(x[piece], own, out=masked[piece])
                first += piece.stop - piece.start
        return masked


def _gathered(x: Tensor, pieces: Sequence[slice]) -> Tensor:
    """The samples of ``x`` in ``pieces``; a view if there is only one piece."""
    return x[pieces[0]] if len(pieces) == 1 else torch.cat([x[piece] for piece in pieces])


def mixture_gate(
    x: Tensor,  # (N, C, *spatial)
    shares: Tensor,  # (M,) on the simplex, in the order of METHODS
    shares_on_host: Tensor,  # the same numbers on the CPU: reading them waits for no device
    rates: Tensor,  # (M, C) drop rates in [0, P_MAX]; those of element and spatial methods are equal for all features
    block_size: int,
) -> Gate | MixtureGate:
    """Draw a gate in which each sample is masked by one method, drawn for that sample."""
    if math.prod(x.shape[2:]) == 1:  # the same for all patterns: a feature is one unit, which is dropped by itself
        method = drawn_methods(x.shape[0], shares)  # len() would fix the size in an export
        return channel_gate(x, rates[method].view(*x.shape[:2], *[1] * (x.ndim - 2)))
    if is_traced(x):
        return _selected_gate(x, shares, rates, block_size)
    parts = []
    for pieces, methods in _parts(len(x), shares_on_host):
        pattern = _PATTERNS[methods[0][0]]
        # The gates of units and channels depend on shape and layout alone.
        samples = _gathered(x, pieces) if pattern == "spatial" else x[: sum(count for _, count in methods)]
        if pattern == "channel":
            own = torch.cat([rates[method].expand(count, -1) for method, count in methods])
            gate = channel_gate(samples, own.view(*own.shape, *[1] * (x.ndim - 2)))
        else:
            gate = pattern_gate(samples, pattern, rates[methods[0][0], :1], block_size)
        parts.append(Part(pieces, gate))
    return MixtureGate(tuple(parts))


_PATTERNS = tuple(OWN_PATTERN.values())
_METHODS_BY_PATTERN = {
    pattern: [method for method, own in enumerate(_PATTERNS) if own == pattern] for pattern in dict.fromkeys(_PATTERNS)
}


def _parts(samples: int, shares: Tensor) -> list[tuple[tuple[slice, ...], list[tuple[int, int]]]]:
    """For each pattern that is drawn: its samples, and its methods with their numbers of samples, in that order.

    The methods lie around a circle of N samples that begins at a random sample.
    """
    drawn = torch.multinomial(shares, samples, replacement=True)
    counts = torch.bincount(drawn, minlength=len(shares)).tolist()
    start = int(torch.randint(samples, (), device="cpu"))
    parts = []
    for members in _METHODS_BY_PATTERN.values():
        methods = [(method, counts[method]) for method in members if counts[method]]
        if not methods:
            continue
        stop = start + sum(count for _, count in methods)
        cut = [(start, min(stop, samples)), (0, stop - samples)] if stop > samples else [(start, stop)]
        parts.append((tuple(slice(*piece) for piece in cut if piece[0] < piece[1]), methods))
        start = stop % samples
    return parts


def drawn_methods(samples: int, shares: Tensor) -> Tensor:
    """Draw the number of a method for each sample, (N,), on the device of ``shares``.

    Unlike torch.multinomial, this never waits for the device, so that a CUDA graph can hold it.
    """
    draws = torch.rand(samples, len(shares), dtype=torch.float32, device=shares.device)
    # Of exponential waiting times with rates w, that of method m is the shortest with probability w_m.
    return (-draws.log() / shares).argmin(1)


def _selected_gate(x: Tensor, shares: Tensor, rates: Tensor, block_size: int) -> Gate:
    """The same gate for traced code: one gate of each pattern for all samples, and a choice for each sample."""
    method = drawn_methods(x.shape[0], shares)
    one = [1] * (x.ndim - 2)
    gate = channel_gate(x, rates[method].view(*x.shape[:2], *one)).saved[0]
    for index, pattern in enumerate(_PATTERNS):
        if pattern != "channel":
            other = pattern_gate(x, pattern, rates[index, :1], block_size)
            gate = torch.where((method == index).view(-1, 1, *one), other.whole(), gate)
    return Gate((gate,))
