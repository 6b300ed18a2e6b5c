"""Decode one image file to pixels of a given size, at the precision of the file.

    bits           white    pixels                                      array
    1..8           255      0 to 255; a palette, CMYK, ... becomes RGB  uint8
    16, greyscale  65535    as stored, not scaled                       float32
    32, greyscale  unknown  as stored: integers or floats of any range  float32

Cameras and microscopes store 10 or 12 bits in files of 16: a conversion to 8 bits would leave few of their levels. Of
16 bits per colour, Pillow reads the upper 8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dropopt.config import ConfigError
from dropopt.explain import first_line

#: Suffixes of the files that are read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
)
#: Formats that are decoded, whatever the suffix. Pillow's other formats may start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")

WHITE_8, WHITE_16 = 255, 65535

#: What Pillow raises for damaged files and for files of another format.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_GREY = ("1", "L")

#: The side of a square, or height and width; None for the size of the file.
Size = int | tuple[int, int] | None
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
#: Formats whose mode "I" holds 16 bits; in TIFF it holds 32, or 16 with a sign.
_DEEP_AS_I = ("PPM", "PNG")
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # TIFF's tag, and its default


@dataclass(frozen=True)
class Pixels:
    """A decoded image.

    Args:
        array: (3, height, width), uint8 or float32.
        grey: Whether the three channels are equal because the file is greyscale.
        white: The value of white, or None if the file does not define it.
        truncated: Whether the file has 16 bits per colour, of which only the upper 8 could be read.
    """

    array: Any
    grey: bool
    white: int | None
    truncated: bool = False


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


def read_image(path: Path, size: Size) -> Pixels:
    """Read an image, upright, on white where it is transparent, and resize it.

    Args:
        path: The file.
        size: The side of a square, or height and width; None to keep the size.

    Raises:
        ConfigError: If the file cannot be decoded; the message names it.
    """
    try:
        with _open(path) as file:
            if file.mode in _DEEP or (file.mode == "I" and file.format in _DEEP_AS_I):
                return _read_deep(np.asarray(ImageOps.exif_transpose(file)), size, WHITE_16)
            if file.mode in ("I", "F"):
                return _read_deep(_values(file), size, None)
            if size is not None:
                width, height = _target(size, file.size)
                file.draft("RGB", (2 * width, 2 * height))  # decodes a large JPEG at a fraction of its size
            return _read_8_bits(file, size)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


# -- 8 bits


def in_rgb(image: Image.Image) -> Image.Image:
    """The image in the mode "RGB", on white where it is transparent."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _target(size: Size, given: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the result, for a file of width and height ``given``."""
    if size is None:
        return given
    return (size, size) if isinstance(size, int) else (size[1], size[0])


def _read_8_bits(file: Image.Image, size: Size) -> Pixels:
    grey, truncated = file.mode in _GREY, _has_16_bit_colours(file)
    image = ImageOps.exif_transpose(file)
    grey = grey and not image.has_transparency_data
    image = in_rgb(image)
    target = _target(size, image.size)
    if image.size != target:
        image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Pixels(np.asarray(image).transpose(2, 0, 1).copy(), grey, WHITE_8, truncated)


# -- 16 and 32 bits


def _read_deep(pixels: Any, size: Size, white: int | None) -> Pixels:
    """Resize greyscale pixels (H, W) in float32: Pillow cannot resize its integer modes of 16 bits."""
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    target = _target(size, image.size)
    if image.size != target:
        image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    array = np.asarray(image)
    if not np.isfinite(array).all():
        raise ValueError("it holds values that are not finite")
    if white is not None:
        array = array.clip(0, white)  # bicubic interpolation overshoots
    return Pixels(np.stack([array] * 3), True, white)


def _values(file: Image.Image) -> Any:
    """Pixels of 32 bits. Pillow reads unsigned integers as signed ones."""
    array = np.asarray(ImageOps.exif_transpose(file))
    tags = getattr(file, "tag_v2", {})
    wide = file.mode == "I" and tags.get(258, (32,))[0] == 32
    unsigned = tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    return array.view(np.uint32) if wide and unsigned else array


def _has_16_bit_colours(file: Image.Image) -> bool:
    """Whether Pillow drops the lower half of each colour's 16 bits, as it does in every mode but greyscale."""
    for tile in getattr(file, "tile", []):
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(";16" in option for option in options if isinstance(option, str)):
            return True
        if file.format == "PPM" and any(option > WHITE_8 for option in options if isinstance(option, int)):
            return True
    return False


def _open(path: Path) -> Image.Image:
    Image.init()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])  # not every Pillow has them all


def _unreadable(path: Path, error: BaseException) -> ConfigError:
    reason = "not an image, or damaged" if isinstance(error, UnidentifiedImageError) else first_line(error)
    return ConfigError(f"{path} cannot be read as an image: {reason}")
