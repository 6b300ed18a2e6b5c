"""Pattern ``spatial``, eq. (7), (8): contiguous blocks, preferably at positions that are safe to drop.

Maps are flattened for sliding windows: a neighbour along any dimension is then a fixed shift away. Where a window
crosses the end of a row, its result lies in a margin that is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropopt.config import P_MAX
from dropopt.engine.masks.noise import laid_out, memory_order, random_shorts
from dropopt.engine.masks.patterns import Gate, element_gate, is_traced, one_rate

#: Number of values of a random short. A rate between two levels is met by random rounding.
_LEVELS = 2**16


def spatial_gate(x: Tensor, p: Tensor, block_size: int) -> Gate:
    """Draw a gate of blocks, (N, 1 or C, *spatial).

    Positions with S_spatial = 1 are dropped first. Others are dropped only if a rate of P_MAX at those is not enough.
    The mean rate over the map is p for every image. Features of a map with one position are independent units.
    """
    space = x.shape[2:]
    if (positions := math.prod(space)) == 1:
        return element_gate(x, p)
    safe = spatial_structure(x)
    windows = _windows(space, block_size)
    if (rate := one_rate(x, p)) is not None:
        safe_positions = safe.sum(list(range(1, x.ndim))).long()
        split = _split_table(rate, positions, windows.units).index_select(1, safe_positions)
        split = split.view(4, -1, *[1] * (x.ndim - 1))
    else:
        split = _split(p, safe.mean(list(range(2, x.ndim)), keepdim=True), windows.units)
    bars = split[:2]
    bars.add_(torch.rand_like(bars)).floor_().sub_(_LEVELS / 2)
    saved = (safe, _least_noise(x, windows), split)
    if p.shape[0] == 1:
        return Gate((_steered(*saved, dtype=x.dtype),))
    order = None if is_traced(x) else memory_order(x)  # vmap cannot write into a given tensor, compilers need not
    return Gate(saved, partial(_steered, dtype=x.dtype, order=order))


def spatial_structure(x: Tensor) -> Tensor:
    """Return S_spatial of eq. (8), (N, 1, *spatial) float32: 1 where a position is safe to drop, 0 elsewhere.

    The importance of a position is its prominence (the norm of its activations over all channels, averaged over its
    3x3 neighbourhood) plus its novelty (the distance of its own norm from that average, because a position that equals
    its neighbours is redundant). A position is safe if its importance is at most the mean of its map.
    """
    if x.stride(1) == 1:  # channels innermost in memory
        prominence = torch.linalg.vector_norm(x.movedim(1, -1), dim=-1).unsqueeze(1).float()
    else:  # many times faster than a norm over strided planes
        prominence = x.float().square().sum(1, keepdim=True).sqrt_()
    padded = pad(prominence, (1, 1) * (x.ndim - 2), mode="replicate").contiguous()
    around = padded.view(-1)
    for stride in padded.stride()[2:]:
        length = around.shape[0] - 2 * stride
        pair = around.narrow(0, 0, length) + around.narrow(0, stride, length)
        around = pair.add_(around.narrow(0, 2 * stride, length))
    around = around.as_strided(prominence.shape, padded.stride())
    # Sums over the neighbourhood serve as means: they are compared with their own mean.
    matter = torch.sub(around, prominence, alpha=3 ** (x.ndim - 2)).abs_().add_(around)
    mean = matter.mean(list(range(2, x.ndim)), keepdim=True)
    return matter.le_(mean * (1 + 1e-6))  # the tolerance keeps a constant map wholly safe when its mean rounds down


# -- rates of safe and of other positions


def _split(p: Tensor, area: Tensor, units: int) -> Tensor:
    """Return how rates p are met where a fraction ``area`` of the positions is safe: (4, ...).

    Rows 0 and 1 are, for S_spatial = 0 and 1, the bar that the minimum of ``units`` draws must reach for a position to
    be kept; rows 2 and 3 are the scales of kept positions. A bar that is rounded up with the probability of its
    fractional part, and down otherwise, is reached with probability 1 - rate.
    """
    inside = (p / area.clamp(min=1e-6)).clamp(max=P_MAX)  # area is 0 where a map is not finite
    outside = ((p - area * inside) / (1 - area).clamp(min=1e-6)).clamp(0, P_MAX)
    rates = torch.stack((outside, inside))
    # The minimum of K draws from [0, 1) is below g with probability 1 - (1 - g)^K.
    below = ((-rates).log1p().div(units).expm1() * -_LEVELS).floor()
    low, high = (((below + up) / -_LEVELS).log1p().mul(units).expm1().neg() for up in (0, 1))
    return torch.cat((below + ((rates - low) / (high - low)).clamp(0, 1), 1 / (1 - rates)))


@lru_cache(maxsize=256)
def _split_table(p: float, positions: int, units: int) -> Tensor:
    """Return the split of one rate for each number of safe positions, (4, positions + 1).

    It is computed once per rate instead of once per batch.
    """
    area = torch.arange(positions + 1, dtype=torch.float32, device="cpu") / positions
    return _split(torch.tensor(p, dtype=torch.float32, device="cpu"), area, units).view(4, -1)


def _steered(
    safe: Tensor,  # (N, 1, *spatial), S_spatial
    least: Tensor,  # (N, 1, *spatial) int16, minimum of the draws whose blocks cover a position
    split: Tensor,  # (4, N, 1 or C, *1), with rounded bars
    dtype: torch.dtype,
    order: list[int] | None = None,
) -> Tensor:
    """Make a gate of blocks from their noise; in this memory ``order`` where the rates of features differ."""
    low, high = split[::2], split[1::2]  # bar and scale for S_spatial = 0 and for 1
    out = None
    if order is not None:
        shape = [2, *split.shape[1:3], *safe.shape[2:]]
        out = laid_out(low.new_empty(math.prod(shape)), shape, [0, *(dim + 1 for dim in order)])
    # A product and a sum are faster than addcmul and lerp; numbers in place are faster than bool and new tensors.
    bar, scale = torch.mul(safe, high - low, out=out).add_(low).unbind()
    return (bar.le_(least.float()) * scale).to(dtype)


# -- blocks


class _Windows(NamedTuple):
    """Windows over a flattened map of cells with a margin, so that each position has a whole window."""

    units: int  # cells in one window
    strides: tuple[int, ...]  # of (N, 1, *spatial) in the flat cells; the first is the number of cells of a map
    shifts: tuple[int, ...]  # distance of the neighbour that each pass includes; the window width doubles each time


def _windows(space: Sequence[int], side: int) -> _Windows:
    sides = [min(side, size) for size in space]
    grid = [size + side - 1 for size, side in zip(space, sides, strict=True)]
    strides = [math.prod(grid[dim:]) for dim in range(len(grid) + 1)]
    shifts = []
    for stride, side in zip(strides[1:], sides, strict=True):
        width = 1
        while width < side:
            shifts.append(min(width, side - width) * stride)
            width *= 2
    return _Windows(math.prod(sides), (strides[0], *strides), tuple(shifts))


def _least_noise(x: Tensor, windows: _Windows) -> Tensor:
    """Return for each position the minimum of the uniform draws whose blocks cover it, (N, 1, *spatial) int16.

    Block centres reach beyond the border, so that every position is covered by the same number of blocks.
    """
    least = random_shorts(x.shape[0] * windows.strides[0], x.device)  # len() would fix the size in an export
    for shift in windows.shifts:
        length = least.shape[0] - shift
        least = torch.minimum(least.narrow(0, 0, length), least.narrow(0, shift, length))
    return least.as_strided((x.shape[0], 1, *x.shape[2:]), windows.strides)
