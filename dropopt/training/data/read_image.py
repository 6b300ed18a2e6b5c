"""Decode one image file to a square of pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dropopt.config import ConfigError

#: Suffixes of the files that are read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
)
#: Formats that are decoded, whatever the suffix. Pillow's other formats may start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")

#: What Pillow raises for damaged files and for files of another format.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L")
#: Pixels of 32 bits, whose black and white levels no file states; Pillow would clip them to 0 and 255.
_UNSCALED = ("I", "F")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header.

    Raises:
        ConfigError: If the file is not an image; the message names it.
    """
    try:
        with _open(path) as image:
            return image.size
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def read_image(path: Path, side: int) -> tuple[Any, bool]:
    """Read an image, upright, on white where it is transparent, resized to a square.

    Returns:
        An array (3, side, side) of uint8, and whether the image is greyscale.

    Raises:
        ConfigError: If the file cannot be decoded; the message names it.
    """
    try:
        with _open(path) as file:
            file.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at a fraction of its size
            deep = file.mode in _DEEP or (file.mode == "I" and file.format == "PPM")
            grey = file.mode in _GREY or deep
            if file.mode in _UNSCALED and not deep:
                raise ValueError("its pixels have 32 bits; save 8 or 16, or use numpy:FILE.npz")
            image = ImageOps.exif_transpose(file)
            if deep:  # Pillow would clip 16 bits, not scale them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
                grey = False
            image = image.convert("RGB")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(image).transpose(2, 0, 1).copy(), grey
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _open(path: Path) -> Image.Image:
    Image.init()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])  # not every Pillow has them all


def _unreadable(path: Path, error: BaseException) -> ConfigError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image, or damaged"
    return ConfigError(f"{path} cannot be read as an image: {reason}")
