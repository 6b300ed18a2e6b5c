"""Images of one size in one tensor, on one scale whatever the precision of their files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.training.data.memory import allocate
from dropopt.training.data.read_image import WHITE_8, WHITE_16, Pixels


class Stack:
    """Collects ``count`` images of ``side`` x ``side`` pixels for the data set ``name``.

    Files of 8 bits give uint8. If any file has 16 bits, all images are float32 in [0, 65535], and those of 8 bits are
    multiplied by 257. Pixels of 32 bits have no defined white level, so they cannot be mixed with others.
    """

    def __init__(self, name: str, count: int, side: int) -> None:
        self.name, self.shape = name, (count, 3, side, side)
        self.filled = 0
        self.grey = True
        self.white: int | None = None
        self.first: dict[int | None, Path] = {}  # a file with each white level
        self.scaled = 0  # images multiplied by 257
        self.truncated = 0  # images of 16 bits per colour
        self.brightest = 0.0  # largest value in the truncated images
        self.pixels = torch.empty(0)

    def add(self, path: Path, image: Pixels) -> None:
        """Add the next image.

        Raises:
            ConfigError: If its scale and that of the images before it cannot be compared, or if memory is exhausted.
        """
        self.first.setdefault(image.white, path)
        if None in self.first and len(self.first) > 1:
            deep = self.first.pop(None)
            other = next(iter(self.first.values()))
            raise ConfigError(
                f"{deep} has pixels of 32 bits, which have no common scale with those of {other}; "
                "save all images with 8 or 16 bits, or use numpy:FILE.npz"
            )
        if not self.filled:
            self.white = image.white
            self.pixels = allocate(self.name, self.shape, torch.uint8 if image.white == WHITE_8 else torch.float32)
        if image.white == WHITE_16 and self.white == WHITE_8:
            self._widen()
        row = self.pixels[self.filled]
        row.copy_(torch.from_numpy(image.array))
        if image.white == WHITE_8 and self.white == WHITE_16:
            row.mul_(WHITE_16 // WHITE_8)
            self.scaled += 1
        if image.truncated:
            self.truncated += 1
            self.brightest = max(self.brightest, float(image.array.max()))
        self.filled += 1
        self.grey &= image.grey

    def _widen(self) -> None:
        """Bring the images so far from 8 bits to the scale of 16."""
        wide = allocate(self.name, self.shape, torch.float32)
        wide[: self.filled] = self.pixels[: self.filled]
        wide[: self.filled] *= WHITE_16 // WHITE_8
        self.pixels, self.white, self.scaled = wide, WHITE_16, self.filled

    def images(self) -> Tensor:
        """The images (N, C, side, side); C = 1 if all are greyscale, else 3.

        Raises:
            ConfigError: If too few of the upper 8 bits of truncated images are used.
        """
        if self.truncated and self.brightest < WHITE_8 // 2:
            raise ConfigError(
                f"{self.name}: {_have(self.truncated)} 16 bits per colour, of which fewer than 15 are used and the "
                "upper 8 would be read; save them with 8 bits, or use numpy:FILE.npz"
            )
        return self.pixels[:, :1].clone() if self.grey else self.pixels

    def remarks(self) -> list[str]:
        """Sentences about mixed precisions, and about precision that was lost."""
        sentences = []
        if self.scaled:
            sentences.append(
                f"{quantity(self.filled - self.scaled, 'image')} with 16 bits and {self.scaled} with 8: 255 and 65535 "
                "are both white; rescale the former if they use fewer bits"
            )
        if self.truncated:
            sentences.append(f"{_have(self.truncated)} 16 bits per colour, of which the upper 8 are used")
        return sentences


def _have(images: int) -> str:
    return f"{quantity(images, 'image')} {'has' if images == 1 else 'have'}"
