"""Patterns: which units of a feature map are dropped together.

Every pattern drops each unit with probability exactly p, for every map size and block size. Patterns differ in which
units share a random number:

    element    none                                      Srivastava et al., 2014
    channel    a whole map                               Tompson et al., 2015 (SpatialDropout, torch's Dropout2d)
    structured a whole map, with p = 0 for features that are not eligible (eq. 5, 6)
    spatial    a block of positions, in all channels     Ghiasi et al., 2018 (DropBlock); see spatial.py

A pattern draws a *gate*, broadcastable to x: 1 / (1 - p) where a unit is kept and 0 where it is dropped, so that
E[x * gate] = x. The scale uses the unit's own rate rather than the fraction that was dropped in the batch, which would
couple samples. Features are on dimension 1 of x, (N, C, *spatial); rates are (1, *1) or (C, *1), in [0, P_MAX].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropopt.engine.masks.noise import in_transform, laid_out, memory_order, random_bytes, random_words

#: Shortest column for which random bytes are faster: its units share one random number for rounding.
_MIN_COLUMN = 4
#: Random bits per unit. A rate that is no multiple of 2^-_BITS is met by random rounding.
_BITS = 8
#: Multiplier that collects the lowest bit of each byte of a 64-bit word in the top byte.
_GATHER = 0x8040201008040201 - 2**64


class Gate(NamedTuple):
    """A drawn gate in compact form: tensors to save for the backward pass, and how to make the gate from them."""

    saved: tuple[Tensor, ...]
    make: Callable[..., Tensor] | None = None  # None: the only saved tensor is the gate itself

    def with_saved(self, saved: Sequence[Tensor]) -> Gate:
        """Return this gate with other tensors."""
        return Gate(tuple(saved), self.make)

    def times(self, x: Tensor) -> Tensor:
        """Return x * gate."""
        if self.make is None:
            return x * self.saved[0]
        gate = self.make(*self.saved)
        if torch.is_grad_enabled() or in_transform():
            return x * gate
        return gate.mul_(x).detach()  # not a view, so that in-place operations may follow

    def whole(self) -> Tensor:
        """Return the gate, broadcastable to x."""
        return self.saved[0] if self.make is None else self.make(*self.saved)


def channel_gate(x: Tensor, p: Tensor) -> Gate:
    """Draw a gate of whole feature maps, (N, C, *1)."""
    shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
    noise = torch.rand(shape, dtype=torch.float32, device=x.device)  # several times faster than bernoulli on the CPU
    if (rate := one_rate(x, p)) is not None:
        return Gate((noise.lt_(1 - rate).to(x.dtype).div_(1 - rate),))
    keep = 1 - p
    return Gate((noise.lt_(keep).div_(keep).to(x.dtype),))


def one_rate(x: Tensor, p: Tensor) -> float | None:
    """Return the common rate as a number if there is one and reading it does not wait for a device; else None."""
    return p.item() if p.numel() == 1 and x.is_cpu and not is_traced(x) else None


def is_traced(x: Tensor) -> bool:
    """Whether a compiler, a fake mode, torch.func or a CUDA graph traces x, so that nothing computed may be cached.

    A CUDA graph repeats what ran on the device: numbers that were drawn on the CPU would be constants in it.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor or in_transform():
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def element_gate(x: Tensor, p: Tensor) -> Gate:
    """Draw a gate of independent units, in the shape and memory layout of x; one bit per unit is kept."""
    if is_traced(x):  # compilers fuse operations on floats, but not those on bits
        return Gate(((torch.rand_like(x, dtype=torch.float32) >= p).to(x.dtype) * (1 / (1 - p)).to(x.dtype),))
    order = memory_order(x)
    if (rate := one_rate(x, p)) is not None:
        bits = _bernoulli_bits(x.numel(), rate)
    elif x.ndim > 2 and x.shape[2] >= _MIN_COLUMN:
        bits = _pack(_element_bytes(x, p), order)
    else:
        bits = _pack(torch.rand_like(x, dtype=torch.float32) >= p, order)
    return Gate((bits, (1 / (1 - p)).to(x.dtype)), partial(_from_bits, shape=x.shape, order=order))


def _element_bytes(x: Tensor, p: Tensor) -> Tensor:
    """Return 1 where a unit is kept and 0 where it is dropped, uint8 in the shape and memory layout of x.

    Random numbers are most of the cost of element dropout, so a unit takes 8 bits instead of 32. A rate that is no
    multiple of 1/256 is still exact, because each column rounds its threshold up with the right probability.
    """
    # In-place on numbers, because bool tensors are several times slower on the CPU. Columns rather than rows share a
    # draw, in the layout of x, so that neighbours in memory have neighbouring thresholds.
    rounding = torch.rand_like(x[:, :, :1], dtype=torch.float32)
    threshold = torch.floor(p * 2**_BITS + rounding).to(torch.uint8)  # <= 244
    return random_bytes(x).ge_(threshold)


def _bernoulli_bits(units: int, p: float) -> Tensor:
    """Return one bit per unit, packed into bytes: 0 with probability p, else 1.

    A unit is dropped if its number of 8 random bits is below the threshold p * 256, rounded up or down at random for
    each 64 units. The comparison treats 64 units at a time, one bit of the numbers after another, lowest first.
    """
    threshold, rest = divmod(p * 2**_BITS, 1)
    words = -(-units // 64)
    draws = random_words(_BITS * words).view(_BITS, words)
    # Whether the threshold of 64 units is rounded up.
    up = torch.lt(torch.rand(words, dtype=torch.float32, device="cpu"), rest)
    below = up.to(torch.int64).neg_()  # then -1, so that equal numbers count as below
    for bit, draw in enumerate(draws.unbind()):
        below = below | draw if int(threshold) >> bit & 1 else below & draw
    return below.bitwise_not().view(torch.uint8)[: -(-units // 8)]


def _pack(kept: Tensor, order: list[int]) -> Tensor:
    """Pack eight bytes that are 0 or 1 (uint8 or bool) into one, in this ``order`` of their dimensions."""
    flat = kept.permute(order).reshape(-1)
    words = pad(flat, (0, -flat.numel() % 8)).view(torch.int64)
    return ((words * _GATHER) >> 56).to(torch.uint8)  # byte i of the word goes to bit 7 - i of its top byte


def _from_bits(bits: Tensor, scale: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """Make a gate of packed bits, with its dimensions in this ``order`` in memory."""
    table = _bits_of_byte(scale.device, scale.dtype)
    if scale.numel() == 1:
        table = table * scale.view(())
    flat = table.index_select(0, bits.to(torch.int32)).view(-1)[: shape.numel()]
    gate = laid_out(flat, shape, order)
    return gate if scale.numel() == 1 else gate.mul_(scale)


@cache
def _bits_of_byte(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the bits of every byte, highest first, (256, 8); cached, because a copy to a device waits for it."""
    return ((torch.arange(256, device="cpu")[:, None] >> torch.arange(7, -1, -1, device="cpu")) & 1).to(device, dtype)
