"""Memory for many images: one allocation that can fail with a clear message, and chunks that keep copies small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dropopt.config import ConfigError

#: Numbers converted at a time, so that intermediate copies stay small.
CHUNK = 2**22


def allocate(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor for the images of the data set ``name``.

    Raises:
        ConfigError: If there is not enough memory; the message gives the number of GiB required.
    """
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError:
        count, size = shape[0], "x".join(str(side) for side in shape[1:])
        need = math.prod(shape) * dtype.itemsize / 2**30
        raise ConfigError(
            f"{name}: {count} images of {size} need {need:.3g} GiB, more than is available; use a smaller image_size"
        ) from None


def images_per_chunk(images: Tensor) -> int:
    """How many of ``images`` (N, C, H, W) hold :data:`CHUNK` numbers; at least one."""
    return max(1, CHUNK // images.shape[1:].numel())
