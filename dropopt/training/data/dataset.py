"""What training sees of a data set: three splits as tensors, and what is known about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.training.data.complexity import remembered_complexity
from dropopt.training.data.split import Split


def room(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for so many images of the data set ``name``; raises ConfigError when there is not as much."""
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError:
        count, size = shape[0], "x".join(str(side) for side in shape[1:])
        need = math.prod(shape) * dtype.itemsize / 2**30
        raise ConfigError(
            f"{name}: {count} images of {size} need {need:.3g} GiB, more than there is; use a smaller image_size"
        ) from None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of images, normalised per channel with the training split's statistics.

    Raises :class:`ConfigError` for what cannot be trained on: images that are not (N, C, H, W) float32 numbers of one
    size, labels that are not (N,) int64 class numbers, fewer than two classes, an empty split.
    """

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
    #: What its source left out, in sentences.
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ConfigError(f"{self.name}: at least two classes are needed, got {list(self.classes)}")
        for name, split in self.splits().items():
            self._check_images(name, split.images)
            self._check_labels(name, split.labels, len(split.images))

    def _check_images(self, name: str, images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.dtype != torch.float32 or images.requires_grad:
            given = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            given += " with one" if getattr(images, "requires_grad", False) else ""
            raise ConfigError(f"{self.name}: {name} images must be a float32 tensor without a gradient, got {given}")
        if images.ndim != 4 or not images.numel() or images.shape[1:] != self.train.images.shape[1:]:
            raise ConfigError(
                f"{self.name}: {name} images must be at least one, (N, C, H, W) like the training images, "
                f"got {tuple(images.shape)} beside {tuple(self.train.images.shape)}"
            )
        if not torch.stack(images.aminmax()).isfinite().all():
            raise ConfigError(f"{self.name}: {name} images hold numbers that are not finite")

    def _check_labels(self, name: str, labels: Tensor, count: int) -> None:
        whole = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (count,)
        if not whole or not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ConfigError(
                f"{self.name}: {name} labels must be {count} int64 numbers in [0, {len(self.classes) - 1}], got "
                + (f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__)
                + (f" in [{labels.min()}, {labels.max()}]" if whole else "")
            )

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
        return remembered_complexity(self.train, len(self.classes), self.fingerprint.get("train"))

    @property
    def notices(self) -> list[str]:
        """What a person should be told before a result on these data is believed."""
        told = [f"{self.name}: {remark}" for remark in self.remarks]
        for name in ("validation", "test"):
            held = set(self.splits()[name].labels.tolist())
            if absent := [label for number, label in enumerate(self.classes) if number not in held]:
                more = f" and {len(absent) - 3} more classes" if len(absent) > 3 else ""
                told.append(f"{self.name}: {name} has no images of {', '.join(absent[:3])}{more}")
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
