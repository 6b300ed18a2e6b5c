"""PyTorch data sets and data loaders of the user's own: each is read once, into memory.

Images with class numbers take the path of all images: they are resized, split and normalised. Samples of other shapes,
and samples with other targets, are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dropopt.config import ConfigError, DataConfig
from dropopt.randomness import generator
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.progress import tracked
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split

#: The names of the splits, in the order in which a tuple gives them.
SPLITS = ("train", "validation", "test")


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


def read_torch(name: str, splits: Mapping[str, Any]) -> Source | dict[str, Split]:
    """Read data sets or loaders into memory.

    Returns:
        A source for images (N, C, H, W) with class numbers; else the splits as they are.

    Raises:
        ConfigError: Samples have several shapes, are not pairs, or hold no numbers.
    """
    read = {split: _read(f"{name}: {split}", given) for split, given in splits.items()}
    labels = read["train"].labels
    numbers = all(one.labels.ndim == 1 and not one.labels.is_floating_point() for one in read.values())
    if not (numbers and read["train"].images.ndim == 4):
        return read
    classes = _class_names(splits["train"], int(labels.max()) + 1)
    return Source(name, classes, read["train"], read.get("validation"), read.get("test"))


def dataset_as_is(name: str, splits: Mapping[str, Split], config: DataConfig) -> Dataset:
    """Return a data set of samples that are used as they are; missing splits are drawn from the training samples."""
    if config.image_size is not None:
        raise ConfigError(f"{name}: image_size is for images (C, H, W) with class numbers; resize in the data set")
    pool = splits["train"]
    order = torch.randperm(len(pool), generator=generator(config.split_seed, "split", "samples"))

    def carve(count: int) -> Split:
        nonlocal order
        if not 0 < count < len(order):
            raise ConfigError(f"{name}: {len(pool)} samples are too few to split")
        chosen, order = order[:count].sort().values, order[count:]
        return pool.take(chosen)

    test = splits["test"] if "test" in splits else carve(max(1, round(config.test_fraction * len(pool))))
    if config.subset is not None:
        order = order[: config.subset]
    count = max(1, round(config.validation_fraction * len(order)))
    validation = splits["validation"] if "validation" in splits else carve(count)
    labels = pool.labels
    classes: tuple[str, ...] = ()
    if labels.ndim == 1 and not labels.is_floating_point():
        classes = tuple(map(str, range(int(labels.max()) + 1)))
    train = pool.take(order.sort().values)
    train, validation, test = (Split(one.images.float(), one.labels) for one in (train, validation, test))
    return Dataset(name, classes, train, validation, test)


def _is_torch(value: Any) -> bool:
    return isinstance(value, TorchDataset | DataLoader)


def _read(name: str, given: Any) -> Split:
    if isinstance(given, DataLoader):
        batches = [_pair(name, batch) for batch in tracked(given, len(given), f"reading {name}")]
        if not batches:
            raise ConfigError(f"{name} has no batches")
        samples, targets = ([_tensor(part) for part in parts] for parts in zip(*batches, strict=True))
        _check_shapes(name, [batch[0] for batch in samples])
        return Split(_images(torch.cat(samples)), _integers(torch.cat(targets)))
    pairs = [_pair(name, sample) for sample in tracked(_samples(name, given), len(given), f"reading {name}")]
    if not pairs:
        raise ConfigError(f"{name} has no samples")
    samples, targets = ([_tensor(part) for part in parts] for parts in zip(*pairs, strict=True))
    _check_shapes(name, samples)
    return Split(_images(torch.stack(samples)), _integers(torch.stack(targets)))


def _samples(name: str, given: Any) -> Iterator[Any]:
    """The samples of a data set, which need not end by itself."""
    if not hasattr(given, "__len__"):
        raise ConfigError(f"{name}: the data set has no length; give a DataLoader with a fixed number of batches")
    return (given[index] for index in range(len(given)))


def _pair(name: str, sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    raise ConfigError(f"{name} must give pairs (sample, target), gives {_kind(sample)}")


def _tensor(value: Any) -> Tensor:
    """A tensor of what a data set returned. Images of PIL become (C, H, W)."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"a data set must give tensors, arrays, numbers or images, gives {_kind(value)}")
    if hasattr(value, "getbands"):  # PIL
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    tensor = torch.from_numpy(np.array(array))
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _images(samples: Tensor) -> Tensor:
    return samples if samples.dtype == torch.uint8 else samples.float()


def _integers(targets: Tensor) -> Tensor:
    return targets.float() if targets.is_floating_point() else targets.long()


def _check_shapes(name: str, samples: Iterable[Tensor]) -> None:
    first = None
    for number, sample in enumerate(samples):
        first = sample.shape if first is None else first
        if sample.shape != first:
            shapes = " and ".join("x".join(map(str, shape)) for shape in (first, sample.shape))
            raise ConfigError(f"{name} has samples of {shapes} (number {number}); resize them in its transform")


def _class_names(given: Any, count: int) -> tuple[str, ...]:
    """The names of the classes that the data set gives, or their numbers."""
    while given is not None:
        names = getattr(given, "classes", None)
        if isinstance(names, list | tuple) and len(names) >= count:
            return tuple(map(str, names))
        given = getattr(given, "dataset", None)  # of a loader or a subset
    return tuple(map(str, range(count)))


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return type(value).__name__ + size
