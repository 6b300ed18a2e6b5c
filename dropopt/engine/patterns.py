"""How a drop is correlated: one feature map, many ways to choose which units fall together.

Every pattern drops each single unit with probability exactly p, for every map size and block size; patterns differ
only in which units share their noise:

    element    nobody          Srivastava et al., 2014
    channel    a whole map     Tompson et al., 2015 (SpatialDropout, torch's Dropout2d)
    structured a whole map, with p = 0 for the channels that must stay (eq. 5, 6)
    spatial    a block of neighbouring positions, all channels (Ghiasi et al., 2018, DropBlock; eq. 7, 8)

A pattern draws a *gate*: 1 / (1 - p) where a unit is kept and 0 where it is dropped, broadcastable to x. The
scale is that of the unit's own rate (never of the batch's realised count, which would couple samples), so
E[x * gate] = x. Features are on dimension 1 of x, (N, C, *spatial); rates are (1, *1) or (C, *1), in [0, P_MAX].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropopt.config import P_MAX

#: Random bytes pay off once columns are long enough to share a rounding draw; below, floats are as cheap.
_MIN_COLUMN = 4
#: Random bits that decide about a unit; what they leave of its rate is met by rounding at random.
_BITS = 8
#: Prominence is pooled over about this many channels, evenly spaced: more cost time and barely move the map.
_POOLED_CHANNELS = 8
#: Up to this many draws per position are floats: each must be below p / K, which takes more than 24 bits beyond.
_FLOAT_DRAWS = 64
#: Brings the lowest bit of each byte of a 64-bit word into the top byte.
_GATHER = 0x8040201008040201 - 2**64


class Gate(NamedTuple):
    """A gate as drawn: the little that is kept of it for the backward pass, and how the gate is made of that."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor] | None = None  # None: the gate itself is little enough, and all that is kept

    def times(self, x: Tensor) -> Tensor:
        """x * gate."""
        if self.make is None:
            return x * self.kept[0]
        gate = self.make(*self.kept)
        return x * gate if torch.is_grad_enabled() else gate.mul_(x).detach()  # no view: in-place work may follow


def channel_gate(x: Tensor, p: Tensor) -> Gate:
    """Gate of whole feature maps, (N, C, *1)."""
    noise = torch.rand(*x.shape[:2], *[1] * (x.ndim - 2), device=x.device)
    return Gate((_scaled(noise >= p, p, x.dtype),))


# -- element


def element_gate(x: Tensor, p: Tensor) -> Gate:
    """Gate of independent units, shaped like x and laid out as it is; one bit a unit is kept."""
    if torch.compiler.is_compiling():  # compilers fuse floats better than they read bits
        return Gate((_scaled(torch.rand_like(x, dtype=torch.float32) >= p, p, x.dtype),))
    if p.numel() == 1 and x.device.type == "cpu":
        bits = _bernoulli_bits(x.numel(), p.item())
    elif x.ndim > 2 and x.shape[2] >= _MIN_COLUMN:
        bits = _pack(_element_bytes(x, p))
    else:
        bits = _pack((torch.rand_like(x, dtype=torch.float32) >= p).to(torch.uint8))
    return Gate((bits, (1 / (1 - p)).to(x.dtype)), partial(_from_bits, shape=x.shape, order=_memory_order(x)))


def _element_bytes(x: Tensor, p: Tensor) -> Tensor:
    """1 where a unit is kept and 0 where it is dropped, uint8 in the shape and memory layout of x.

    Random numbers are most of what element dropout costs, so a unit gets 8 bits instead of 32. A rate that is
    no multiple of 1/256 stays exact because each column rounds its threshold up with the right probability.
    """
    # In-place on numbers, since on the CPU bool tensors are several times slower. Columns rather than rows share a
    # draw, and it is laid out as x is: then neighbours in memory have thresholds side by side.
    rounding = torch.rand_like(x[:, :, :1], dtype=torch.float32)
    threshold = torch.floor(p * 2**_BITS + rounding).to(torch.uint8)  # <= 244
    return _random_bytes(x).ge_(threshold)


def _bernoulli_bits(units: int, p: float) -> Tensor:
    """One bit a unit, 0 with probability p, in bytes.

    A number of 8 random bits is below a threshold or not: for 64 units at a time by going through the bits of the
    threshold from the lowest up. The threshold is p * 256, rounded up or down at random for each 64 units.
    """
    threshold, rest = divmod(p * 2**_BITS, 1)
    words = -(-units // 64)
    draws = _random_words(_BITS * words).view(_BITS, words)
    below = torch.lt(torch.rand(words), rest).to(torch.int64).neg_()  # all 64: an equal number is below
    for bit, draw in enumerate(draws.unbind()):
        below = below | draw if int(threshold) >> bit & 1 else below & draw
    return below.bitwise_not().view(torch.uint8)[: -(-units // 8)]


def _pack(kept: Tensor) -> Tensor:
    """Eight of the 0/1 bytes in one, in memory order."""
    flat = kept.permute(_memory_order(kept)).reshape(-1)
    words = pad(flat, (0, -flat.numel() % 8)).view(torch.int64)
    return ((words * _GATHER) >> 56).to(torch.uint8)  # byte i of the word goes to bit 7 - i of its top byte


def _from_bits(bits: Tensor, scale: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """Gate of packed bits, whose dimensions lie in memory in this ``order``."""
    table = _bits_of_byte(scale.device, scale.dtype)
    if scale.numel() == 1:
        table = table * scale.view(())
    flat = table.index_select(0, bits.to(torch.int32)).view(-1)[: shape.numel()]
    gate = _laid_out(flat, shape, order)
    return gate if scale.numel() == 1 else gate.mul_(scale)


@cache
def _bits_of_byte(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256, 8) the bits of every byte, highest first; once a device, which would else be waited for."""
    return ((torch.arange(256)[:, None] >> torch.arange(7, -1, -1)) & 1).to(device, dtype)


def _memory_order(x: Tensor) -> list[int]:
    """Dimensions of x from the slowest to the fastest."""
    return sorted(range(x.ndim), key=lambda d: (-x.stride()[d], d))


def _laid_out(flat: Tensor, shape: Sequence[int], order: list[int]) -> Tensor:
    """View of numbers in a row as a tensor of ``shape`` whose dimensions lie in this ``order``."""
    return flat.view([shape[d] for d in order]).permute([order.index(d) for d in range(len(order))])


# -- spatial


def spatial_gate(x: Tensor, p: Tensor, block_size: int) -> Gate:
    """Gate of contiguous blocks, steered to safe positions; (N, 1 or C, *spatial).

    Eq. (7), (8): positions with S_spatial = 1 are dropped first; only what they cannot carry at P_MAX spills over
    to the others, so the mean over the map is p whatever the picture looks like. A map of one position has no
    space: its features are then independent units.
    """
    if math.prod(x.shape[2:]) == 1:
        return element_gate(x, p)
    safe = spatial_structure(x)
    area = safe.mean(tuple(range(2, x.ndim)), keepdim=True)  # (N, 1, *1), > 0: the mean is never below the minimum
    inside = (p / area).clamp(max=P_MAX)
    outside = (p - area * inside).div_((1 - area).clamp_(min=1e-6)).clamp_(0, P_MAX)
    rates = torch.stack((outside, inside))  # (2, N, 1 or C, *1): by S_spatial
    lowest, units = _block_minimum(x, block_size)
    # The least of K uniform draws is below g with probability 1 - (1 - g)^K: g is such that this is the rate.
    least = (-rates).to(lowest.dtype).log1p_().div_(units).expm1_().neg_()
    steered = partial(_steered, features=p.shape[0], order=_memory_order(x), dtype=x.dtype)
    kept = (safe, lowest, least, 1 / (1 - rates))
    return Gate((steered(*kept),)) if p.shape[0] == 1 else Gate(kept, steered)


def _steered(
    safe: Tensor,  # (N, 1, *spatial), S_spatial
    lowest: Tensor,  # (N, 1, *spatial), dropped where below
    least: Tensor,  # (2, N, 1 or C, *1), what S_spatial = 0 and 1 ask for
    scale: Tensor,  # (2, N, 1 or C, *1), of what is kept, likewise
    features: int,
    order: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """Gate of blocks from their noise, in memory ``order``."""
    shape = [safe.shape[0], features, *safe.shape[2:]]

    def choose(low: Tensor, high: Tensor) -> Tensor:
        out = _laid_out(low.new_empty(math.prod(shape)), shape, order)
        return torch.mul(safe.to(low), high - low, out=out).add_(low)  # faster than addcmul and lerp

    # Floats in place, since on the CPU bool and fresh tensors are far slower.
    bar = choose(*least)
    return torch.sub(lowest, bar, out=bar).ge_(0).mul_(choose(*scale)).to(dtype)


def spatial_structure(x: Tensor) -> Tensor:
    """Eq. (8): S_spatial, (N, 1, *spatial) float32, 1 where a position may be dropped and 0 elsewhere.

    A position matters by its prominence (|activation|, pooled over channels, averaged over its neighbourhood)
    and by its novelty (how far it stands from that average: a position that equals its neighbours is redundant).
    Safe is what matters no more than the average position of its own map.
    """
    some = x[:, :: max(1, x.shape[1] // _POOLED_CHANNELS)].float().abs()
    if some.stride(1) == 1:  # channels lie innermost: a product is faster than a mean over so few
        even = some.new_full((some.shape[1],), 1 / some.shape[1])
        with torch.autocast(x.device.type, enabled=False):  # it would make the map bf16, and its mean inexact
            pooled = torch.tensordot(some, even, ([1], [0])).unsqueeze(1)
    else:
        pooled = some.mean(1, keepdim=True)
    around = pad(pooled, (1, 1) * (x.ndim - 2), mode="replicate")
    for dim in range(2, x.ndim):
        size = x.shape[dim]
        around = (around.narrow(dim, 0, size) + around.narrow(dim, 1, size)).add_(around.narrow(dim, 2, size))
    around /= 3 ** (x.ndim - 2)
    matter = torch.sub(pooled, around).abs_().add_(around)
    mean = matter.mean(tuple(range(2, x.ndim)), keepdim=True)
    # The margin keeps a constant map whole when its mean rounds down.
    return torch.sub(mean * (1 + 1e-6), matter).ge_(0)


# -- noise


def _block_minimum(x: Tensor, block_size: int) -> tuple[Tensor, int]:
    """Per position, the least of the uniform draws whose block covers it, (N, 1, *spatial); and their number.

    Centres reach beyond the border, so that every position is covered by equally many.
    """
    sides = [min(block_size, size) for size in x.shape[2:]]
    grid = [size + side - 1 for size, side in zip(x.shape[2:], sides, strict=True)]
    units = math.prod(sides)
    precision = torch.float32 if units <= _FLOAT_DRAWS else torch.float64
    lowest = torch.rand(x.shape[0], 1, *grid, device=x.device, dtype=precision)
    for dim, side in enumerate(sides, start=2):
        width = 1
        while width < side:  # doubling windows: a minimum over b neighbours in log2(b) passes
            shift = min(width, side - width)
            length = lowest.shape[dim] - shift
            lowest = torch.minimum(lowest.narrow(dim, 0, length), lowest.narrow(dim, shift, length))
            width += shift
    return lowest, units


def _random_bytes(x: Tensor) -> Tensor:
    """Uniform uint8 in the shape and memory layout of x."""
    words = _random_words(-(-x.numel() // 8), x.device)
    return _laid_out(words.view(torch.uint8)[: x.numel()], x.shape, _memory_order(x))


def _random_words(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform int64 over the full range: without it the sign bit, and every eighth byte, would be biased."""
    return torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None)


def _scaled(keep: Tensor, p: Tensor, dtype: torch.dtype) -> Tensor:
    return keep.to(dtype) * (1 / (1 - p)).to(dtype)
