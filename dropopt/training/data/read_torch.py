"""PyTorch data sets and data loaders of the user's own: read once into memory, or anew in each epoch.

Training samples that are drawn at random are read anew in each epoch; kept in memory, their augmentation would be
frozen. So are data sets that do not fit into memory. ``data.in_memory`` decides otherwise.

Images with class numbers take the path of all images: they are resized, split and normalised. Samples of other shapes,
and samples with other targets, are used as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from dropopt.config import ConfigError, DataConfig
from dropopt.inputs import Inputs, each
from dropopt.numbers import quantity
from dropopt.randomness import everywhere, generator
from dropopt.training.data.collate import stacked, together
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.progress import tracked
from dropopt.training.data.reading import OwnBatches, check_numbered, is_random, reader_of
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split
from dropopt.training.data.stream import bytes_of

#: The names of the splits, in the order in which a tuple gives them.
SPLITS = ("train", "validation", "test")
#: The share of the machine's memory above which data are not kept in it: several processes train at the same time.
SHARE = 1 / 8


def torch_splits(given: Any) -> dict[str, Any] | None:
    """Return the data sets or loaders in ``given`` by the name of their split; None if it is something else.

    Args:
        given: One data set or loader, a tuple (train, validation[, test]), or a mapping with these names.
    """
    if _is_torch(given):
        return {"train": given}
    if isinstance(given, tuple | list) and 1 < len(given) <= len(SPLITS) and all(map(_is_torch, given)):
        return dict(zip(SPLITS, given, strict=False))
    if isinstance(given, Mapping) and given and all(map(_is_torch, given.values())):
        named = {"validation" if key == "val" else str(key): value for key, value in given.items()}
        if unknown := sorted(named.keys() - set(SPLITS)):
            raise ConfigError(f"unknown split {unknown[0]!r}; allowed: {', '.join(SPLITS)}")
        if "train" not in named:
            raise ConfigError(f"the split 'train' is missing; there are: {', '.join(named)}")
        return named
    return None


def why_streamed(name: str, splits: Mapping[str, Any], config: DataConfig) -> str | None:
    """Why training samples are read anew in each epoch, in words; None if they are kept in memory."""
    if config.in_memory is True:
        return None
    if config.in_memory is False:
        return "data.in_memory is false"
    reader = reader_of(f"{name}: train", splits["train"])
    if not len(reader):
        return None  # which read_torch refuses
    needed = len(reader) * bytes_of(next(iter(reader.in_order(1, 0, "sample"))))
    if needed > SHARE * _memory():
        return f"they would take {needed / 2**30:.3g} GiB of memory"
    if is_random(reader):
        return "they are drawn at random"
    in_order = not isinstance(reader, OwnBatches) or isinstance(reader.loader.dataset, IterableDataset)
    return None if in_order else "the sampler of their loader chooses them"


def read_torch(name: str, splits: Mapping[str, Any]) -> Source | dict[str, Split]:
    """Read data sets or loaders into memory.

    Returns:
        A source for images (N, C, H, W) with class numbers; else the splits as they are.

    Raises:
        ConfigError: Samples have several shapes, are not pairs, or hold no numbers.
    """
    read = {split: _read(f"{name}: {split}", given) for split, given in splits.items()}
    labels = read["train"].labels
    if not all(are_classified_images(one) for one in read.values()):
        return read
    classes = class_names(splits["train"], int(labels.max()) + 1)
    remarks = colours_last(read["train"])
    return Source(name, classes, read["train"], read.get("validation"), read.get("test"), remarks)


def are_classified_images(split: Split) -> bool:
    """Whether these are images (N, C, H, W) with class numbers."""
    images, labels = split.images, split.labels
    numbers = labels.ndim == 1 and not labels.is_floating_point()
    return numbers and isinstance(images, torch.Tensor) and images.ndim == 4


def colours_last(split: Split) -> tuple[str, ...]:
    """A remark if these look like (N, H, W, C), although data sets of PyTorch give (N, C, H, W)."""
    images: Any = split.images
    first, height, width = images.shape[1:]
    if first <= 4 or width not in (3, 4):
        return ()
    read = f"samples of {first}x{height}x{width} are read as {first} channels of {height}x{width} pixels"
    return (f"{read}; if the last axis holds the colours, give (C, H, W), as ToTensor does",)


def dataset_as_is(name: str, splits: Mapping[str, Split], config: DataConfig) -> Dataset:
    """Return a data set of samples that are used as they are; missing splits are drawn from the training samples."""
    if config.image_size is not None:
        raise ConfigError(f"{name}: image_size is for images (C, H, W) with class numbers; resize in the data set")
    pool = splits["train"]
    drawn = drawn_splits(name, len(pool), {one for one in SPLITS if one in splits}, config)
    labels = pool.labels
    classes: tuple[str, ...] = ()
    if labels.ndim == 1 and not labels.is_floating_point():
        classes = tuple(map(str, range(int(labels.max()) + 1)))
    found = {one: pool.take(drawn[one]) if one in drawn else splits[one] for one in SPLITS}
    train, validation, test = (Split(as_is(found[one].images), found[one].labels) for one in SPLITS)
    return Dataset(name, classes, train, validation, test, drawn=tuple(one for one in SPLITS if one not in splits))


def as_is(samples: Inputs) -> Inputs:
    """Samples as float32; of several inputs, whole numbers stay whole."""
    if isinstance(samples, torch.Tensor):
        return samples.float()
    return each(lambda part: part if part.dtype == torch.int64 else part.float(), samples)


def drawn_splits(name: str, count: int, given: set[str], config: DataConfig) -> dict[str, torch.Tensor]:
    """The positions of the training samples, and those of each split that is not ``given``, among ``count`` samples."""
    order = torch.randperm(count, generator=generator(config.split_seed, "split", "samples"))

    def carve(wanted: int) -> torch.Tensor:
        nonlocal order
        if not 0 < wanted < len(order):
            raise ConfigError(f"{name}: {count} samples are too few to split")
        chosen, order = order[:wanted].sort().values, order[wanted:]
        return chosen

    drawn = {}
    if "test" not in given:
        drawn["test"] = carve(max(1, round(config.test_fraction * count)))
    if config.subset is not None:
        if config.subset > len(order):
            raise ConfigError(f"{name}: subset: must be at most {quantity(len(order), 'sample')}, got {config.subset}")
        order = order[: config.subset]
    if "validation" not in given:
        if config.validation_seed is not None:
            again = generator(config.validation_seed, "split", "validation")
            order = order[torch.randperm(len(order), generator=again)]
        drawn["validation"] = carve(max(1, round(config.validation_fraction * len(order))))
    return drawn | {"train": order.sort().values}


def class_names(given: Any, count: int) -> tuple[str, ...]:
    """The names of the classes that the data set gives, or their numbers."""
    return named_classes(given, count) or tuple(map(str, range(count)))


def named_classes(given: Any, count: int) -> tuple[str, ...]:
    """The names of at least ``count`` classes that the data set gives; empty if it gives none."""
    while given is not None:
        names = getattr(given, "classes", None)
        if isinstance(names, list | tuple) and len(names) >= count:
            return tuple(map(str, names))
        given = getattr(given, "dataset", None)  # of a loader or a subset
    return ()


def _is_torch(value: Any) -> bool:
    return isinstance(value, TorchDataset | DataLoader)


def _read(name: str, given: Any) -> Split:
    if isinstance(given, DataLoader):
        # Not as the loader gives them: if it shuffles, that would be another order, and other splits, each time.
        reader, size = reader_of(name, given), given.batch_size or 1
        steps = reader.steps if isinstance(reader, OwnBatches) else -(-len(reader) // size)
        return together(name, list(tracked(reader.in_order(size, 0, "reading"), steps, f"reading {name}")))
    check_numbered(name, given)
    if not len(given):
        raise ConfigError(f"{name} has no samples")
    samples = (given[index] for index in range(len(given)))  # a data set need not end by itself
    with everywhere(0, "reading"):
        return stacked(name, list(tracked(samples, len(given), f"reading {name}")))


def _memory() -> float:
    """Bytes of memory of this machine; infinite if that is not known."""
    with suppress(ValueError, OSError, AttributeError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return float("inf")
