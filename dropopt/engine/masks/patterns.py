"""How a drop is correlated: one feature map, many ways to choose which units fall together.

Every pattern drops each single unit with probability exactly p, for every map size and block size; patterns differ
only in which units share their noise:

    element    nobody          Srivastava et al., 2014
    channel    a whole map     Tompson et al., 2015 (SpatialDropout, torch's Dropout2d)
    structured a whole map, with p = 0 for the channels that must stay (eq. 5, 6)
    spatial    a block of neighbouring positions, all channels (Ghiasi et al., 2018, DropBlock): spatial.py

A pattern draws a *gate*: 1 / (1 - p) where a unit is kept and 0 where it is dropped, broadcastable to x. The
scale is that of the unit's own rate (never of the batch's realised count, which would couple samples), so
E[x * gate] = x. Features are on dimension 1 of x, (N, C, *spatial); rates are (1, *1) or (C, *1), in [0, P_MAX].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropopt.engine.masks.noise import laid_out, memory_order, random_bytes, random_words

#: Random bytes pay off once columns are long enough to share a rounding draw; below, floats are as cheap.
_MIN_COLUMN = 4
#: Random bits that decide about a unit; what they leave of its rate is met by rounding at random.
_BITS = 8
#: Brings the lowest bit of each byte of a 64-bit word into the top byte.
_GATHER = 0x8040201008040201 - 2**64


class Gate(NamedTuple):
    """A gate as drawn: the little that is kept of it for the backward pass, and how the gate is made of that."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor] | None = None  # None: the gate itself is little enough, and all that is kept

    def with_kept(self, kept: Sequence[Tensor]) -> Gate:
        """The same gate made of other tensors."""
        return Gate(tuple(kept), self.make)

    def times(self, x: Tensor) -> Tensor:
        """x * gate."""
        if self.make is None:
            return x * self.kept[0]
        gate = self.make(*self.kept)
        return x * gate if torch.is_grad_enabled() else gate.mul_(x).detach()  # no view: in-place work may follow

    def whole(self) -> Tensor:
        """The gate, broadcastable to x."""
        return self.kept[0] if self.make is None else self.make(*self.kept)


def channel_gate(x: Tensor, p: Tensor) -> Gate:
    """Gate of whole feature maps, (N, C, *1)."""
    shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
    if (rate := one_rate(x, p)) is not None:
        return Gate((x.new_empty(shape).bernoulli_(1 - rate).div_(1 - rate),))
    keep = (1 - p).expand(shape)
    return Gate((torch.bernoulli(keep).div_(keep).to(x.dtype),))


def one_rate(x: Tensor, p: Tensor) -> float | None:
    """The rate of all features, where there is one and reading it costs less than computing with a tensor of one."""
    return p.item() if p.numel() == 1 and x.is_cpu and not is_traced(x) else None


def is_traced(x: Tensor) -> bool:
    """Whether a compiler or a fake mode looks on: nothing that it sees may be remembered."""
    return torch.compiler.is_compiling() or type(x) is not Tensor


def element_gate(x: Tensor, p: Tensor) -> Gate:
    """Gate of independent units, shaped like x and laid out as it is; one bit a unit is kept."""
    if is_traced(x):  # compilers fuse floats better than they read bits
        return Gate(((torch.rand_like(x, dtype=torch.float32) >= p).to(x.dtype) * (1 / (1 - p)).to(x.dtype),))
    if (rate := one_rate(x, p)) is not None:
        bits = _bernoulli_bits(x.numel(), rate)
    elif x.ndim > 2 and x.shape[2] >= _MIN_COLUMN:
        bits = _pack(_element_bytes(x, p))
    else:
        bits = _pack((torch.rand_like(x, dtype=torch.float32) >= p).to(torch.uint8))
    return Gate((bits, (1 / (1 - p)).to(x.dtype)), partial(_from_bits, shape=x.shape, order=memory_order(x)))


def _element_bytes(x: Tensor, p: Tensor) -> Tensor:
    """1 where a unit is kept and 0 where it is dropped, uint8 in the shape and memory layout of x.

    Random numbers are most of what element dropout costs, so a unit gets 8 bits instead of 32. A rate that is
    no multiple of 1/256 stays exact because each column rounds its threshold up with the right probability.
    """
    # In-place on numbers, since on the CPU bool tensors are several times slower. Columns rather than rows share a
    # draw, and it is laid out as x is: then neighbours in memory have thresholds side by side.
    rounding = torch.rand_like(x[:, :, :1], dtype=torch.float32)
    threshold = torch.floor(p * 2**_BITS + rounding).to(torch.uint8)  # <= 244
    return random_bytes(x).ge_(threshold)


def _bernoulli_bits(units: int, p: float) -> Tensor:
    """One bit a unit, 0 with probability p, in bytes.

    A number of 8 random bits is below a threshold or not: for 64 units at a time by going through the bits of the
    threshold from the lowest up. The threshold is p * 256, rounded up or down at random for each 64 units.
    """
    threshold, rest = divmod(p * 2**_BITS, 1)
    words = -(-units // 64)
    draws = random_words(_BITS * words).view(_BITS, words)
    below = torch.lt(torch.rand(words), rest).to(torch.int64).neg_()  # all 64: an equal number is below
    for bit, draw in enumerate(draws.unbind()):
        below = below | draw if int(threshold) >> bit & 1 else below & draw
    return below.bitwise_not().view(torch.uint8)[: -(-units // 8)]


def _pack(kept: Tensor) -> Tensor:
    """Eight of the 0/1 bytes in one, in memory order."""
    flat = kept.permute(memory_order(kept)).reshape(-1)
    words = pad(flat, (0, -flat.numel() % 8)).view(torch.int64)
    return ((words * _GATHER) >> 56).to(torch.uint8)  # byte i of the word goes to bit 7 - i of its top byte


def _from_bits(bits: Tensor, scale: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """Gate of packed bits, whose dimensions lie in memory in this ``order``."""
    table = _bits_of_byte(scale.device, scale.dtype)
    if scale.numel() == 1:
        table = table * scale.view(())
    flat = table.index_select(0, bits.to(torch.int32)).view(-1)[: shape.numel()]
    gate = laid_out(flat, shape, order)
    return gate if scale.numel() == 1 else gate.mul_(scale)


@cache
def _bits_of_byte(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256, 8) the bits of every byte, highest first; once a device, which would else be waited for."""
    return ((torch.arange(256)[:, None] >> torch.arange(7, -1, -1)) & 1).to(device, dtype)
