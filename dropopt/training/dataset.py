"""What training sees of a data set: three splits as tensors, and what is known about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dropopt.config import ConfigError


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels."""

    images: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,) int64, in [0, classes)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images at ``index``, in its order."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """The same on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """SHA-256 of type, shape and values of images and labels."""
        found = hashlib.sha256()
        for tensor in (self.images, self.labels):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).view(np.uint8).data)
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of images, normalised per channel with the training split's statistics."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    #: Per channel, in the units of the source: images are (source - mean) / std.
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    #: Hash of each split before normalisation.
    fingerprint: dict[str, str] = field(default_factory=dict)
    #: How many images of the second split are exact copies of one of the first: {"train/test": 3}.
    duplicates: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.train.images.shape[1:]
        for name, split in self.splits().items():
            if split.images.shape[1:] != shape or split.images.ndim != 4 or not len(split):
                raise ConfigError(
                    f"{self.name}: {name} images must be at least one, (N, C, H, W) like the training images, "
                    f"got {tuple(split.images.shape)} beside {tuple(self.train.images.shape)}"
                )
            if len(split.images) != len(split.labels) or split.labels.dtype != torch.int64:
                raise ConfigError(f"{self.name}: {name} labels must be {len(split.images)} int64 numbers")

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.train.images.shape[2], self.train.images.shape[3]

    @cached_property
    def complexity(self) -> float:
        """D_complexity of eq. (9) in [0, 1], from the training split alone; kept on disk by its hash."""
        from dropopt.training.complexity import remembered_complexity

        return remembered_complexity(self.train, len(self.classes), self.fingerprint.get("train"))

    @property
    def notices(self) -> list[str]:
        """What a person should be told before a result on these data is believed."""
        told = []
        for pair, count in self.duplicates.items():
            first, second = pair.split("/")
            if count:
                total = len(self.splits()[second])
                told.append(f"{self.name}: {count} of {total} {second} images are exact copies of {first} images")
        return told

    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Dataset:
        """The same with its tensors on ``device``."""
        train, validation, test = (split.to(device) for split in self.splits().values())
        return replace(self, train=train, validation=validation, test=test)
