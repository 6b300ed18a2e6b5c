"""load_data: from a setting to a data set, by choosing the reader that the setting names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropopt.config import ConfigError, DataConfig
from dropopt.known import unknown_data
from dropopt.owncode import own_errors, own_function
from dropopt.training.data import read_torchvision
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.from_source import dataset_from, duplicates
from dropopt.training.data.read_arrays import from_arrays, read_npz
from dropopt.training.data.read_folder import read_folder
from dropopt.training.data.read_stream import read_stream
from dropopt.training.data.read_torch import dataset_as_is, read_torch, torch_splits, why_streamed
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream

NAMES = ("digits", *read_torchvision.NAMES)


def load_data(config: DataConfig) -> Dataset:
    """Read, split and normalise a data set.

    A data set's own validation and test splits are used as they are. Missing splits are drawn from the training
    images by seeded, stratified sampling. The test split is drawn first, so a smaller ``subset`` leaves it unchanged.

    Args:
        config: Which data, and how to split them. ``config.name`` is one of digits, mnist, fashion-mnist, kmnist,
            cifar10, cifar100, svhn, ``folder:PATH`` (one folder of images per class), ``numpy:FILE.npz``, or
            ``module:function`` (a function of yours that returns images and labels, a mapping of arrays, a
            :class:`Dataset`, or data sets or loaders of PyTorch: one, a tuple or a mapping of train, validation, test).

    Returns:
        The data set, on the CPU.

    Raises:
        ConfigError: For anything wrong with the data; the message names the file.

    Example:
        >>> from dropopt.config import DataConfig
        >>> data = load_data(DataConfig(name="digits", subset=200))
        >>> {name: len(split) for name, split in data.splits().items()}
        {'train': 160, 'validation': 40, 'test': 359}
    """
    found = _read(config)
    if isinstance(found, Dataset) and isinstance(found.train, Stream):
        return found
    if isinstance(found, dict):
        found = dataset_as_is(config.name, found, config)
    elif isinstance(found, Dataset):
        if config.subset is not None or config.image_size is not None:
            raise ConfigError(f"{config.name} returns a Dataset: subset and image_size cannot apply to it")
    else:
        return dataset_from(found, config)
    splits = {name: split for name, split in found.splits().items() if isinstance(split, Split)}
    return replace(
        found,
        fingerprint={name: split.digest() for name, split in splits.items()} | found.fingerprint,
        duplicates=duplicates(splits) | found.duplicates,
    )


#: What :func:`load_once` has loaded last: nothing, or one data set.
_last: list[tuple[DataConfig, Dataset]] = []


def load_once(config: DataConfig) -> Dataset:
    """Load a data set, or return the one loaded last if it is the same.

    A process that runs one training after another on the same data loads them once. Data with a validation split of
    their own are the same for all values of ``config.validation_seed``.
    """
    if not _last or not _is_of(*_last[0], config):
        _last.clear()  # before the next data set is read: memory may not hold both
        _last.append((config, load_data(config)))
    return _last[0][1]


def _is_of(known: DataConfig, data: Dataset, config: DataConfig) -> bool:
    """Whether ``data``, which were loaded for ``known``, are those of ``config``."""
    if "validation" not in data.drawn:
        known = known.model_copy(update={"validation_seed": config.validation_seed})
    return known == config


def _read(config: DataConfig) -> Source | Dataset | dict[str, Split]:
    kind, colon, place = config.name.partition(":")
    if config.name == "digits":
        return _digits()
    if config.name in NAMES:
        return read_torchvision.read_named(config.name, _path(config.root))
    if kind == "folder" and place:
        return read_folder(_path(place), config.image_size)
    if kind == "numpy" and place:
        return read_npz(_path(place))
    if os.path.exists(config.name):  # a path; C:\photographs also has a colon
        kind = "folder" if os.path.isdir(config.name) else "numpy"
        raise ConfigError(f"data.name {config.name!r} is a path; did you mean '{kind}:{config.name}'?")
    if colon and kind not in ("folder", "numpy"):
        return _from_function(config)
    raise unknown_data(config.name)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: the home folder of that user is unknown") from None


def _digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Source("digits", tuple("0123456789"), Split(images, labels), white=16.0)


def _from_function(config: DataConfig) -> Source | Dataset | dict[str, Split]:
    """Call the user's function.

    It returns (images, labels), named arrays as in a .npz file, a Dataset, or data sets or loaders of PyTorch.
    """
    name = config.name
    function = own_function(name)
    with own_errors(name):
        given = function()
        read = None
        if (splits := torch_splits(given)) is not None:
            why = why_streamed(name, splits, config)
            read = read_torch(name, splits) if why is None else read_stream(name, splits, config, why)
    if read is None and config.in_memory is not None:
        raise ConfigError("data.in_memory is for PyTorch data sets and loaders; leave it out")
    if isinstance(given, Dataset):
        return given
    if read is not None:
        return read
    if isinstance(given, tuple | list) and len(given) == 2 and not all(map(_is_split, given)):
        given = {"x": given[0], "y": given[1]}
    if not isinstance(given, Mapping):
        size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise ConfigError(
            f"{name} must return (images, labels), a mapping of arrays, or data sets or loaders of PyTorch, got "
            f"{type(given).__name__}{size}; for splits of your own, return a mapping with x, y, x_validation, "
            "y_validation, x_test and y_test"
        )
    return from_arrays(name, given)


def _is_split(part: Any) -> bool:
    """Whether this is a pair (images, labels), and not images or labels that are a tuple or list themselves."""
    return isinstance(part, tuple | list) and len(part) == 2 and np.ndim(part[1]) > 0
