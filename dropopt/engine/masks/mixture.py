"""Eq. (15) as the law of total probability: each sample is masked by one method, in that method's own pattern.

A sample draws method m with probability w_m (the shares sum to 1) and is then masked at that method's rates:

    P(unit of feature i is dropped) = sum_m w_m r_m,i        eq. (15), feature by feature

The gate of method m is scaled by 1 / (1 - r_m,i), so E[x * gate] = x given the method, and therefore altogether.

The samples of one method are neighbours in the batch. Only the sizes of these runs are random: they are multinomial,
and the order of runs starts at a random sample, so each sample draws method m with probability w_m wherever it lies.
A pattern thus costs only what its own samples cost. Compiled code, whose sizes must not depend on data, draws a
method for each sample instead and selects among the gates of all patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from dropopt.engine.masks.patterns import Gate, channel_gate, element_gate, is_traced
from dropopt.engine.masks.spatial import spatial_gate

#: The pattern of each method, in an order in which methods of one pattern are neighbours.
OWN_PATTERN = {
    "adaptive": "element",
    "structured": "channel",
    "contextual": "channel",
    "pfid": "channel",
    "spatial": "spatial",
}


class Run(NamedTuple):
    """Neighbouring samples that one gate masks."""

    start: int
    stop: int
    gate: Gate


class MixtureGate(NamedTuple):
    """One gate for each run of samples."""

    runs: tuple[Run, ...]

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """The tensors of all runs, one after the other."""
        return tuple(tensor for run in self.runs for tensor in run.gate.kept)

    def without_kept(self) -> MixtureGate:
        """The same gate with empty tensors in the place of its own."""
        empty = torch.empty(0)
        return self.with_kept([empty] * len(self.kept))

    def with_kept(self, kept: Sequence[Tensor]) -> MixtureGate:
        """The same gate made of other tensors."""
        runs, left = [], iter(kept)
        for run in self.runs:
            runs.append(run._replace(gate=run.gate.with_kept([next(left) for _ in run.gate.kept])))
        return MixtureGate(tuple(runs))

    def times(self, x: Tensor) -> Tensor:
        """x * gate."""
        if torch.is_grad_enabled():
            return torch.cat([run.gate.times(x[run.start : run.stop]) for run in self.runs])
        out = torch.empty_like(x)
        for run in self.runs:
            run.gate.times_into(x[run.start : run.stop], out[run.start : run.stop])
        return out


def mixture_gate(
    x: Tensor,  # (N, C, *spatial)
    shares: Tensor,  # (M,) on the simplex, in the order of OWN_PATTERN
    shares_on_host: Sequence[float],  # the same numbers, where reading them waits for no device
    rates: Tensor,  # (M, C) drop rates in [0, P_MAX]; those of element and spatial methods are equal for all features
    block_size: int,
) -> Gate | MixtureGate:
    """Gate in which each sample is masked by a method of its own."""
    if is_traced(x):
        return _selected_gate(x, shares, rates, block_size)
    runs = []
    for start, stop, methods in _runs(len(x), shares_on_host):
        part = x[start:stop]
        pattern = _PATTERNS[methods[0][0]]
        if pattern == "channel":
            own = torch.cat([rates[method].expand(count, -1) for method, count in methods])
            gate = channel_gate(part, own.view(*own.shape, *[1] * (x.ndim - 2)))
        else:
            gate = _gate(part, pattern, rates[methods[0][0], :1], block_size)
        runs.append(Run(start, stop, gate))
    return MixtureGate(tuple(runs))


_PATTERNS = tuple(OWN_PATTERN.values())


def _gate(x: Tensor, pattern: str, rate: Tensor, block_size: int) -> Gate:
    p = rate.view(-1, *[1] * (x.ndim - 2))
    if pattern == "element":
        return element_gate(x, p)
    return spatial_gate(x, p, block_size) if x.ndim > 2 else channel_gate(x, p)


def _runs(samples: int, shares: Sequence[float]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Runs of samples as (start, stop, [(method, count), ...]); all methods of a run have the same pattern.

    The methods lie around a circle of N samples that begins at a random sample, so that a run may be cut in two.
    """
    # On the CPU whatever the device of x: the sizes are needed here, and reading them would wait for a GPU.
    drawn = torch.multinomial(torch.tensor(shares), samples, replacement=True)
    counts = torch.bincount(drawn, minlength=len(shares)).tolist()
    first = int(torch.randint(samples, ()))
    ends = list(accumulate(counts))
    pieces = []  # (start, stop, method) on the circle, cut where it passes the last sample
    for method, (count, end) in enumerate(zip(counts, ends, strict=True)):
        start, stop = end - count + first, end + first
        pieces += [(start, min(stop, samples), method), (max(start, samples) - samples, stop - samples, method)]
    runs: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, stop, method in sorted(piece for piece in pieces if piece[0] < piece[1]):
        same = runs and _PATTERNS[runs[-1][2][0][0]] == _PATTERNS[method] == "channel"
        if same:
            begun, _, methods = runs[-1]
            runs[-1] = (begun, stop, [*methods, (method, stop - start)])
        else:
            runs.append((start, stop, [(method, stop - start)]))
    return runs


def _selected_gate(x: Tensor, shares: Tensor, rates: Tensor, block_size: int) -> Gate:
    """The same gate for compiled code: one gate of each pattern for all samples, and a choice for each sample."""
    method = torch.multinomial(shares, len(x), replacement=True)
    one = [1] * (x.ndim - 2)
    gate = channel_gate(x, rates[method].view(*x.shape[:2], *one)).kept[0]
    for index, pattern in enumerate(_PATTERNS):
        if pattern != "channel":
            other = _gate(x, pattern, rates[index, :1], block_size)
            whole = other.kept[0] if other.make is None else other.make(*other.kept)
            gate = torch.where((method == index).view(-1, 1, *one), whole, gate)
    return Gate((gate,))
