"""How the pixels of a data set are stored, so that other images can be brought to the same scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PixelFormat:
    """The pixels of a data set before normalisation.

    Args:
        white: The value of white; None if it is not known, or if pixels are used as their files store them.
        whole: Whether pixels are integers of 8 bits.
        files: Whether the images were read from image files, and resized while they were decoded.

    Example:
        >>> PixelFormat(white=255.0, whole=True).files
        False
    """

    white: float | None = None
    whole: bool = False
    files: bool = False


def white_of(images: Tensor) -> float | None:
    """Guess the value of white from the range of ``images``: 1, 255 or 65535; None if the range fits none of them.

    A range fits if its largest value is in the upper half of the scale and no value is negative.
    """
    low, high = (float(bound) for bound in images.aminmax())
    fits = (white for white in (1.0, 255.0, 65535.0) if white / 2 < high <= white)
    return next(fits, None) if low >= 0 else None
