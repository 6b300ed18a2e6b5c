"""A data set as its files hold it, before it is split and normalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dropopt.config import ConfigError
from dropopt.training.data.split import Split


@dataclass(frozen=True)
class Source:
    """What a reader returns.

    Args:
        name: The data set's name, which begins every error message about it.
        classes: Names of the classes, in the order of their numbers.
        train: Images (N, C, H, W), uint8 or float32. Splits that are missing below are drawn from these.
        validation: The data set's own validation split, if it has one.
        test: The data set's own test split, if it has one.
        remarks: Sentences about what the reader left out.
        white: The value of white, if the reader knows it.
        files: Whether the images come from image files, resized while they were decoded.

    Raises:
        ConfigError: For fewer than two classes, a class without training images, or splits whose images differ in size.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    remarks: tuple[str, ...] = ()
    white: float | None = None
    files: bool = False

    def __post_init__(self) -> None:
        if (least := int(self.train.labels.min())) < 0:
            raise ConfigError(f"{self.name}: classes must have the numbers 0, 1, ..., got {least}")
        if len(self.classes) < 2:
            raise ConfigError(f"{self.name}: at least two classes are needed, got {list(self.classes)}")
        counts = torch.bincount(self.train.labels, minlength=len(self.classes))
        if 0 in counts:
            empty = self.classes[counts.tolist().index(0)]
            advice = "; number the classes from 0" if empty == "0" and least > 0 else ""
            raise ConfigError(f"{self.name}: class {empty!r} has no training images{advice}")
        for name, split in (("validation", self.validation), ("test", self.test)):
            if split is not None and split.tensor.shape[1:] != self.train.tensor.shape[1:]:
                raise ConfigError(
                    f"{self.name}: {name} images are {_size(split)}, training images {_size(self.train)}; "
                    "all images must have the same size"
                )


def _size(split: Split) -> str:
    return "x".join(str(side) for side in split.tensor.shape[1:])
