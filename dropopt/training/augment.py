"""Augmentation on tensors: shift, flip and cutout, other for every sample, without a loop over samples.

Shift and flip choose, for every pixel, where it comes from: they are one gather together with picking the batch.
All draws of an epoch are made at its start, each kind from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dropopt.randomness import generator

#: Shifts reach an eighth of the side (4 pixels of CIFAR's 32), the square cut out is a quarter of it.
SHIFT = 1 / 8
CUTOUT = 1 / 4


@dataclass(frozen=True)
class Draws:
    """An epoch's draws, one per sample in the order of training; None for what is not asked for."""

    shift: Tensor | None = None  # (N, 2) rows, columns
    flip: Tensor | None = None  # (N,) bool
    cutout: Tensor | None = None  # (N, 2) centre: row, column


def draw(kinds: Sequence[str], images: Tensor, *, seed: int, epoch: int, device: torch.device) -> Draws | None:
    """What happens to each image of ``epoch``; None when ``kinds`` is empty."""
    if not kinds:
        return None
    n, _, height, width = images.shape
    found: dict[str, Tensor] = {}
    for kind in kinds:
        stream = generator(seed, "augment", kind, epoch)
        if kind == "shift":
            reach = [max(1, round(side * SHIFT)) for side in (height, width)]
            moves = [torch.randint(-r, r + 1, (n,), generator=stream) for r in reach]
            found[kind] = torch.stack(moves, 1)
        elif kind == "flip":
            found[kind] = torch.rand(n, generator=stream) < 0.5
        else:
            centres = [torch.randint(0, side, (n,), generator=stream) for side in (height, width)]
            found[kind] = torch.stack(centres, 1)
    return Draws(**{kind: values.to(device) for kind, values in found.items()})


def take(images: Tensor, index: Tensor, draws: Draws | None = None, where: slice = slice(None)) -> Tensor:
    """The batch ``images[index]``, augmented with ``draws[where]``; channels stay next to each other in memory.

    What a shift uncovers repeats the border; what cutout covers becomes 0, the training mean.
    """
    rows = images.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous as Dataset keeps them
    if draws is None:
        return rows.index_select(0, index).permute(0, 3, 1, 2)
    batch = _gather(rows, index, draws, where)
    if draws.cutout is not None:
        batch.masked_fill_(_square(draws.cutout[where], batch.shape[1], batch.shape[2]), 0.0)
    return batch.permute(0, 3, 1, 2)


def _gather(images: Tensor, index: Tensor, draws: Draws, where: slice) -> Tensor:
    """(B, H, W, C) of images (N, H, W, C), shifted and flipped."""
    if draws.shift is None and draws.flip is None:
        return images.index_select(0, index)
    _, height, width, channels = images.shape
    row = torch.arange(height, device=images.device).expand(len(index), height)
    column = torch.arange(width, device=images.device).expand(len(index), width)
    if draws.shift is not None:
        row = (row + draws.shift[where, :1]).clamp_(0, height - 1)
        column = (column + draws.shift[where, 1:]).clamp_(0, width - 1)
    if draws.flip is not None:
        column = torch.where(draws.flip[where, None], width - 1 - column, column)
    pixel = ((index[:, None] * height + row) * width)[:, :, None] + column[:, None, :]
    flat = images.reshape(-1, channels).index_select(0, pixel.flatten())
    return flat.view(len(index), height, width, channels)


def _square(centre: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, 1), true in a square around ``centre`` (B, 2), cut off at the border."""
    inside = []
    for axis, side in enumerate((height, width)):
        length = max(1, round(side * CUTOUT))
        offset = torch.arange(side, device=centre.device) - centre[:, axis : axis + 1] + length // 2
        inside.append((offset >= 0) & (offset < length))
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
