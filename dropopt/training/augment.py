"""Augmentation on tensors: shift, flip and cutout, drawn for each image, without a loop over images.

Shift and flip map every pixel to the pixel that it is copied from, so selecting the batch and augmenting it is one
gather. All draws of an epoch are made at its start, each kind from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.inputs import Inputs, each
from dropopt.randomness import generator

#: Largest shift and side of the cutout square, as shares of the image's side: 4 and 8 of CIFAR's 32 pixels.
SHIFT = 1 / 8
CUTOUT = 1 / 4


@dataclass(frozen=True)
class Draws:
    """The draws of an epoch, one per image in the order of training; None for kinds that are not used."""

    shift: Tensor | None = None  # (N, 2) pixels: rows, columns
    flip: Tensor | None = None  # (N,) bool
    cutout: Tensor | None = None  # (N, 2) centre: row, column


def draw(
    kinds: Sequence[str],
    images: Inputs,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    count: int | None = None,
) -> Draws | None:
    """Draw the augmentation of each image in ``epoch``; None if ``kinds`` is empty.

    Without ``count``, there are as many as ``images``.
    """
    if not kinds:
        return None
    if not isinstance(images, Tensor):
        raise ConfigError("augment is for samples of one image, and these have several inputs; remove it")
    if images.ndim != 4:
        raise ConfigError(f"augment is for images (N, C, H, W), the samples are {tuple(images.shape)}; remove it")
    _, _, height, width = images.shape
    n = len(images) if count is None else count
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


def take(images: Inputs, index: Tensor, draws: Draws | None = None, where: slice = slice(None)) -> Inputs:
    """Return the batch ``images[index]``, augmented with ``draws[where]``, in channels_last memory.

    A shift repeats the border pixels where it uncovers the image; cutout fills its square with 0, the training mean.
    """
    if not isinstance(images, Tensor):
        return each(lambda part: part.index_select(0, index), images)
    if images.ndim != 4:  # signals, volumes, vectors
        return images.index_select(0, index)
    rows = images.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous as Dataset keeps them
    if draws is None:
        return rows.index_select(0, index).permute(0, 3, 1, 2)
    batch = _gather(rows, index, draws, where)
    if draws.cutout is not None:
        batch.masked_fill_(_square(draws.cutout[where], batch.shape[1], batch.shape[2]), 0.0)
    return batch.permute(0, 3, 1, 2)


def _gather(images: Tensor, index: Tensor, draws: Draws, where: slice) -> Tensor:
    """Select (B, H, W, C) from images (N, H, W, C), shifted and flipped."""
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
    """Mask (B, H, W, 1), true in a square around ``centre`` (B, 2), clipped at the border."""
    inside = []
    for axis, side in enumerate((height, width)):
        length = max(1, round(side * CUTOUT))
        offset = torch.arange(side, device=centre.device) - centre[:, axis : axis + 1] + length // 2
        inside.append((offset >= 0) & (offset < length))
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
