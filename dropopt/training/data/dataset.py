"""The data set that training reads: three normalised splits and what is known about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.inputs import Inputs, parts
from dropopt.numbers import quantity
from dropopt.training.data.complexity import remembered_complexity
from dropopt.training.data.pixels import PixelFormat
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images with their classes.

    :func:`load_data` returns images normalised per channel with the training split's statistics. A Dataset that you
    build yourself is used as it is.

    Args:
        name: Name of the data set, which begins every error message about the data.
        classes: Names of the classes, at least two; empty if the labels are other targets: numbers, masks.
        train: The split that :func:`fit` trains on: a :class:`Split` in memory, or a :class:`Stream` that is read in
            each epoch.
        validation: The split that :func:`fit` evaluates after each epoch.
        test: The split to evaluate once, when everything has been decided.
        mean: Mean of each channel (C values), in the units of the source: images are (source - mean) / std.
        std: Standard deviation of each channel, in the units of the source.
        fingerprint: Hash of each split before normalisation, by the split's name.
        duplicates: How many images of the second split of a pair are exact copies of images of the first:
            ``{"train/test": 3}``.
        remarks: Sentences about what the source left out.
        pixels: How the source stores its pixels.
        drawn: The names of the splits that were drawn from the training images.

    Raises:
        ConfigError: For images that are not finite float32 (N, C, ...) with the same size in all splits, labels
            that are not (N,) int64 class numbers, one class, targets that are not (N, ...), or an empty split.

    Example:
        >>> split = Split(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> data = Dataset("blank", ("cat", "dog"), train=split, validation=split, test=split)
        >>> data.channels, data.image_size
        (1, (8, 8))
    """

    name: str
    classes: tuple[str, ...]
    train: Split | Stream
    validation: Split | Stream
    test: Split | Stream
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fingerprint: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    pixels: PixelFormat = field(default_factory=PixelFormat)
    drawn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) == 1:
            raise ConfigError(f"{self.name}: at least two classes are needed, got {list(self.classes)}")
        for name, given in self.splits().items():
            split, check = given.sample, self._check_labels if self.classes else self._check_targets
            self._check_inputs(name, split.images)
            check(name, split.labels, _count(split.images))

    def _check_inputs(self, name: str, images: Inputs) -> None:
        if not isinstance(images, tuple | dict):
            self._check_images(name, images, self.train.head(1).images)
            return
        expected, found = parts(self.train.head(1).images), parts(images)
        if found.keys() != expected.keys() or type(images) is not type(self.train.head(1).images):
            raise ConfigError(
                f"{self.name}: {name} samples have the inputs {', '.join(found)}, training samples "
                f"{', '.join(expected)}"
            )
        for key, part in found.items():
            if not isinstance(part, Tensor) or part.dtype != torch.int64:  # class numbers, for embeddings
                self._check_images(name, part, expected[key])
        if len({len(part) for part in found.values()}) > 1:
            raise ConfigError(f"{self.name}: the inputs of {name} have several lengths")

    def _check_images(self, name: str, images: Tensor, like: Inputs) -> None:
        if not isinstance(images, Tensor) or images.dtype != torch.float32 or images.requires_grad:
            given = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            given += " with a gradient" if getattr(images, "requires_grad", False) else ""
            raise ConfigError(f"{self.name}: {name} images must be a float32 tensor without a gradient, got {given}")
        shape = like.shape[1:] if isinstance(like, Tensor) else None
        if images.ndim < 2 or not images.numel() or images.shape[1:] != shape:
            raise ConfigError(
                f"{self.name}: {name} images must be (N, C, ...), not empty and of the training images' size, "
                f"got {tuple(images.shape)}, training images {(len(self.train), *(shape or ()))}"
            )
        if not torch.stack(images.aminmax()).isfinite().all():
            raise ConfigError(f"{self.name}: {name} images hold values that are not finite")

    def _check_labels(self, name: str, labels: Tensor, count: int) -> None:
        whole = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (count,)
        if not whole or not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ConfigError(
                f"{self.name}: {name} labels must be {count} int64 numbers in [0, {len(self.classes) - 1}], got "
                + (f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__)
                + (f" in [{labels.min()}, {labels.max()}]" if whole else "")
            )

    def _check_targets(self, name: str, targets: Tensor, count: int) -> None:
        if not isinstance(targets, Tensor) or not targets.ndim or len(targets) != count or targets.is_complex():
            given = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise ConfigError(f"{self.name}: {name} targets must be a tensor ({count}, ...), got {given}")
        if targets.is_floating_point() and not targets.isfinite().all():
            raise ConfigError(f"{self.name}: {name} targets hold values that are not finite")

    @property
    def channels(self) -> Any:
        """Number of channels of an image; of vectors, their length. A tuple or a dictionary for several inputs."""
        return _structure(lambda part: part.shape[1] if part.ndim > 1 else 1, self.train.head(1).images)

    @property
    def image_size(self) -> Any:
        """Height and width of an image, in pixels; the length of a signal, the sides of a volume, () of vectors.

        A tuple or a dictionary of these for several inputs.
        """
        return _structure(lambda part: tuple(part.shape[2:]), self.train.head(1).images)

    @property
    def outputs(self) -> int:
        """Number of outputs that a network needs: the classes, those of a mask, or the numbers of a target."""
        if self.classes:
            return len(self.classes)
        targets = self.train.head(1).labels
        if not targets.is_floating_point():
            return 1 + max(int(s.labels.max()) if isinstance(s, Split) else s.largest for s in self.splits().values())
        return 1 if targets.ndim == 1 else targets.shape[1]

    @cached_property
    def complexity(self) -> float:
        """D_complexity of eq. (9) in [0, 1], computed from the training split only and cached on disk.

        It is defined by classes; without any, it is 0.5.
        """
        if not self.classes:
            return 0.5
        return remembered_complexity(self.train.sample, len(self.classes), self.fingerprint.get("train"))

    @property
    def notices(self) -> list[str]:
        """What a user should know before trusting a result on these data, one sentence each."""
        sentences = [f"{self.name}: {remark}" for remark in self.remarks]
        for name in ("validation", "test") if self.classes else ():
            split = self.splits()[name]
            if isinstance(split, Stream):
                continue
            held = set(split.labels.tolist())
            if absent := [label for number, label in enumerate(self.classes) if number not in held]:
                more = f" and {quantity(len(absent) - 3, 'more class')}" if len(absent) > 3 else ""
                sentences.append(f"{self.name}: {name} has no images of {', '.join(absent[:3])}{more}")
        for pair, count in self.duplicates.items():
            first, second = pair.split("/")
            if count:
                total = len(self.splits()[second])
                copies = "is an exact copy" if count == 1 else "are exact copies"
                of_all = f"{count} of {quantity(total, f'{second} image')}"
                sentences.append(f"{self.name}: {of_all} {copies} of {first} images")
        return sentences

    def splits(self) -> dict[str, Split | Stream]:
        """The splits by name: train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Dataset:
        """Copy the data set with its tensors on ``device``."""
        train, validation, test = (split.to(device) for split in self.splits().values())
        return replace(self, train=train, validation=validation, test=test)


def _count(inputs: Inputs) -> int:
    return len(next(iter(parts(inputs).values())))


def _structure(function: Callable[[Tensor], Any], inputs: Inputs) -> Any:
    """``function`` of the only input; of several, a tuple or a dictionary of its results."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    found = {name: function(part) for name, part in parts(inputs).items()}
    return found if isinstance(inputs, dict) else tuple(found.values())
