"""Eq. (7), (8): contiguous blocks, steered to where dropping is safe.

Maps are flat while windows slide over them: a neighbour along any dimension is then a fixed shift away, and what a
window picks up across the end of a row lands in a margin that is cut off.
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
from dropopt.engine.masks.patterns import Gate, element_gate, one_rate

#: What random_shorts can tell apart; what such a bar leaves of a rate is met by rounding at random.
_LEVELS = 2**16


def spatial_gate(x: Tensor, p: Tensor, block_size: int) -> Gate:
    """Gate of blocks, (N, 1 or C, *spatial).

    Positions with S_spatial = 1 are dropped first; only what they cannot carry at P_MAX spills over to the others, so
    the mean over the map is p whatever the picture looks like. A map of one position has no space: its features are
    then independent units.
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
    kept = (safe, _least_noise(x, windows), split)
    if p.shape[0] == 1:
        return Gate((_steered(*kept, dtype=x.dtype),))
    return Gate(kept, partial(_steered, dtype=x.dtype, order=memory_order(x)))


def spatial_structure(x: Tensor) -> Tensor:
    """Eq. (8): S_spatial, (N, 1, *spatial) float32, 1 where a position may be dropped and 0 elsewhere.

    A position matters by its prominence (the norm of its activations over all channels, averaged over its
    neighbourhood) and by its novelty (how far it stands from that average: a position that equals its neighbours is
    redundant). Safe is what matters no more than the average position of its own map.
    """
    if x.stride(1) == 1:  # channels lie innermost
        prominence = torch.linalg.vector_norm(x.movedim(1, -1), dim=-1).unsqueeze(1).float()
    else:  # a norm over planes is many times slower than its parts
        prominence = x.float().square().sum(1, keepdim=True).sqrt_()
    padded = pad(prominence, (1, 1) * (x.ndim - 2), mode="replicate").contiguous()
    around = padded.view(-1)
    for stride in padded.stride()[2:]:
        length = len(around) - 2 * stride
        pair = around.narrow(0, 0, length) + around.narrow(0, stride, length)
        around = pair.add_(around.narrow(0, 2 * stride, length))
    around = around.as_strided(prominence.shape, padded.stride())
    # Sums over the neighbourhood serve as well as means: all is compared with its own mean.
    matter = torch.sub(around, prominence, alpha=3 ** (x.ndim - 2)).abs_().add_(around)
    mean = matter.mean(list(range(2, x.ndim)), keepdim=True)
    return matter.le_(mean * (1 + 1e-6))  # the margin keeps a constant map whole when its mean rounds down


# -- how much on which side


def _split(p: Tensor, area: Tensor, units: int) -> Tensor:
    """How rates p are met where a share ``area`` of the positions is safe: (4, ...).

    The rows are, for S_spatial = 0 and 1, the bar that the least of ``units`` draws must reach for a position to be
    kept, and again for 0 and 1 the scale of what is. A bar rounded up with the probability in its fraction, or else
    down, is reached with probability 1 - rate.
    """
    inside = (p / area.clamp(min=1e-6)).clamp(max=P_MAX)  # no position is safe where a map is not finite
    outside = ((p - area * inside) / (1 - area).clamp(min=1e-6)).clamp(0, P_MAX)
    rates = torch.stack((outside, inside))
    # The least of K draws from [0, 1) is below g with probability 1 - (1 - g)^K.
    below = ((-rates).log1p().div(units).expm1() * -_LEVELS).floor()
    low, high = (((below + up) / -_LEVELS).log1p().mul(units).expm1().neg() for up in (0, 1))
    return torch.cat((below + ((rates - low) / (high - low)).clamp(0, 1), 1 / (1 - rates)))


@lru_cache(maxsize=256)
def _split_table(p: float, positions: int, units: int) -> Tensor:
    """The split of one rate for each number of safe positions, (4, positions + 1): most of its many small steps are so
    taken once for a rate, not once for a batch."""
    area = torch.arange(positions + 1, dtype=torch.float32, device="cpu") / positions
    return _split(torch.tensor(p, dtype=torch.float32, device="cpu"), area, units).view(4, -1)


def _steered(
    safe: Tensor,  # (N, 1, *spatial), S_spatial
    least: Tensor,  # (N, 1, *spatial) int16, of the draws that cover a position
    split: Tensor,  # (4, N, 1 or C, *1), its bars rounded
    dtype: torch.dtype,
    order: list[int] | None = None,
) -> Tensor:
    """Gate of blocks from their noise; in this memory ``order`` where features differ."""
    low, high = split[::2], split[1::2]  # a bar and a scale each
    out = None
    if order is not None:
        shape = [2, *split.shape[1:3], *safe.shape[2:]]
        out = laid_out(low.new_empty(math.prod(shape)), shape, [0, *(dim + 1 for dim in order)])
    # A product and a sum are faster than addcmul and lerp, and numbers in place than bool and fresh tensors.
    bar, scale = torch.mul(safe, high - low, out=out).add_(low).unbind()
    return (bar.le_(least.float()) * scale).to(dtype)


# -- blocks


class _Windows(NamedTuple):
    """Windows over a map of cells, flat and with a margin, so that each position has a whole one."""

    units: int  # cells in a window
    strides: tuple[int, ...]  # of (N, 1, *spatial) positions in the flat cells; the first is a map's number of cells
    shifts: tuple[int, ...]  # each pass takes in the neighbour so far away; windows double


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
    """Per position, the least of the uniform draws whose block covers it, (N, 1, *spatial) int16.

    Centres reach beyond the border, so that every position is covered by equally many.
    """
    least = random_shorts(len(x) * windows.strides[0], x.device)
    for shift in windows.shifts:
        length = len(least) - shift
        least = torch.minimum(least.narrow(0, 0, length), least.narrow(0, shift, length))
    return least.as_strided((len(x), 1, *x.shape[2:]), windows.strides)
