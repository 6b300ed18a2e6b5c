"""How a drop is correlated: one feature map, many ways to choose which units fall together.

Every pattern draws noise whose value at each single unit is uniform in [0, 1), and keeps the unit where that
noise is at least its drop rate p. So the *marginal* rate is exactly p for every map size and block size;
patterns differ only in which units share their noise:

    element    nobody          Srivastava et al., 2014
    channel    a whole map     Tompson et al., 2015 (SpatialDropout, torch's Dropout2d)
    structured a whole map, with p = 0 for the channels that must stay (eq. 5, 6)
    spatial    a block of neighbouring positions, all channels (Ghiasi et al., 2018, DropBlock; eq. 7, 8)

A pattern returns a *gate*: 1 / (1 - p) where a unit is kept and 0 where it is dropped, broadcastable to x. The
scale is that of the unit's own rate (never of the batch's realised count, which would couple samples), so
E[x * gate] = x. Features are on dimension 1 of x, (N, C, *spatial); rates are (1, *1) or (C, *1), in [0, P_MAX].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropopt.config import P_MAX

#: Random bytes pay off once columns are long enough to share a rounding draw; below, floats are as cheap.
_MIN_COLUMN = 4
#: Prominence is pooled over about this many channels, evenly spaced: more cost time and barely move the map.
_POOLED_CHANNELS = 8
#: Up to this many draws per position are floats: each must be below p / K, which takes more than 24 bits beyond.
_FLOAT_DRAWS = 64
#: For eight 0/1 bytes in one 64-bit word: 1 in every byte, a bit of its own in every byte, and the multiplier that
#: brings all eight into the top byte.
_ONES = 0x0101010101010101
_DIAGONAL = 0x0102040810204080
_GATHER = 0x8040201008040201 - 2**64


def element_gate(x: Tensor, p: Tensor) -> Tensor:
    """Gate of independent units, shaped like x."""
    if has_bytes(x):
        return element_bytes(x, p).to(x.dtype).mul_((1 / (1 - p)).to(x.dtype))
    return _scaled(torch.rand_like(x, dtype=torch.float32) >= p, p, x.dtype)


def has_bytes(x: Tensor) -> bool:
    """Whether :func:`element_bytes` pays off: not in compiled code, which fuses floats, nor on small maps."""
    return not torch.compiler.is_compiling() and x.ndim > 2 and x.shape[2] >= _MIN_COLUMN


def element_bytes(x: Tensor, p: Tensor) -> Tensor:
    """1 where a unit is kept and 0 where it is dropped, uint8 in the shape and memory layout of x.

    Random numbers are most of what element dropout costs, so a unit gets 8 bits instead of 32. A rate that is
    no multiple of 1/256 stays exact because each column rounds its threshold up with the right probability.
    """
    # In-place on numbers, since on the CPU bool tensors are several times slower. Columns rather than rows share a
    # draw, and it is laid out as x is: then neighbours in memory have thresholds side by side.
    rounding = torch.rand_like(x[:, :, :1], dtype=torch.float32)
    threshold = torch.floor(p * 256 + rounding).to(torch.uint8)  # <= 244
    return _random_bytes(x).ge_(threshold)


def pack(kept: Tensor) -> Tensor:
    """Eight of the 0/1 bytes in one, in memory order."""
    flat = kept.permute(memory_order(kept)).reshape(-1)
    words = pad(flat, (0, -flat.numel() % 8)).view(torch.int64)
    return ((words * _GATHER) >> 56).to(torch.uint8)  # byte i of the word goes to bit 7 - i of its top byte


def unpack(bits: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """The bytes that were packed, in their shape and memory layout."""
    words = ((bits.to(torch.int64) * _ONES) & _DIAGONAL).add_(_ONES * 127)  # a bit of its own in every byte, carried
    flat = ((words >> 7) & _ONES).view(torch.uint8)[: shape.numel()]  # to the top if it is set, then down to 0 or 1
    return flat.view([shape[d] for d in order]).permute([order.index(d) for d in range(len(order))])


def memory_order(x: Tensor) -> list[int]:
    """Dimensions of x from the slowest to the fastest."""
    return sorted(range(x.ndim), key=lambda d: (-x.stride()[d], d))


def channel_gate(x: Tensor, p: Tensor) -> Tensor:
    """Gate of whole feature maps, (N, C, *1)."""
    noise = torch.rand(*x.shape[:2], *[1] * (x.ndim - 2), device=x.device)
    return _scaled(noise >= p, p, x.dtype)


def spatial_gate(x: Tensor, p: Tensor, block_size: int) -> Tensor:
    """Gate of contiguous blocks, steered to safe positions; (N, 1 or C, *spatial).

    Eq. (7), (8): positions with S_spatial = 1 are dropped first; only what they cannot carry at P_MAX spills over
    to the others, so the mean over the map is p whatever the picture looks like. A map of one position has no
    space: its features are then independent units.
    """
    if x[0, 0].numel() == 1:
        return element_gate(x, p)
    safe = spatial_structure(x).to(torch.float32)
    area = safe.mean(tuple(range(2, x.ndim)), keepdim=True)  # (N, 1, *1), > 0: the mean is never below the minimum
    inside = (p / area).clamp(max=P_MAX)
    outside = ((p - area * inside) / (1 - area).clamp(min=1e-6)).clamp(0, P_MAX)
    rate = torch.empty_like(x[:, : p.shape[0]], dtype=torch.float32)  # (N, 1 or C, *spatial), in x's memory layout
    torch.addcmul(outside, safe, inside - outside, out=rate)
    lowest, units = _block_minimum(x, block_size)
    # The least of K uniform draws is below g with probability 1 - (1 - g)^K, so this is uniform again.
    noise = -torch.expm1(units * torch.log1p(-lowest)).to(torch.float32)
    # 1 / (1 - rate) where noise >= rate; floats in place, since on the CPU bool and fresh tensors are far slower.
    return torch.sub(noise, rate).ge_(0).div_(rate.neg_().add_(1)).to(x.dtype)


def spatial_structure(x: Tensor) -> Tensor:
    """Eq. (8): S_spatial, (N, 1, *spatial) bool, true where a position may be dropped.

    A position matters by its prominence (|activation|, pooled over channels, averaged over its neighbourhood)
    and by its novelty (how far it stands from that average: a position that equals its neighbours is redundant).
    Safe is what matters no more than the average position of its own map.
    """
    pooled = x[:, :: max(1, x.shape[1] // _POOLED_CHANNELS)].float().abs().mean(1, keepdim=True)
    around = _neighbourhood_mean(pooled)
    matter = around + (pooled - around).abs()
    mean = matter.mean(tuple(range(2, x.ndim)), keepdim=True)
    return matter <= mean * (1 + 1e-6)  # the margin keeps a constant map whole when its mean rounds down


def _scaled(keep: Tensor, p: Tensor, dtype: torch.dtype) -> Tensor:
    return keep.to(dtype) * (1 / (1 - p)).to(dtype)


def _random_bytes(x: Tensor) -> Tensor:
    """Uniform uint8 in the shape and memory layout of x."""
    order = memory_order(x)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None)  # the full range: without it the sign bit, and every eighth byte, is biased
    rows = words.view(torch.uint8)[: x.numel()].view([x.shape[d] for d in order])
    return rows.permute([order.index(d) for d in range(x.ndim)])


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


def _neighbourhood_mean(x: Tensor) -> Tensor:
    """Mean over 3 neighbours along each spatial dimension; the border repeats."""
    for dim in range(2, x.ndim):
        size = x.shape[dim]
        if size > 1:
            moved = x.movedim(dim, -1)
            padded = pad(moved.flatten(0, -2).unsqueeze(1), (1, 1), mode="replicate").squeeze(1)
            total = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
            x = (total / 3).view(moved.shape).movedim(-1, dim)
    return x
