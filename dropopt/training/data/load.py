"""Images as tensors, in three seeded, stratified splits; the test split is for after the study.

What a data set brings is kept: its own test split, its own validation split. What it lacks is drawn from its
training images, first test, then (of what ``subset`` leaves) validation, so that a smaller subset is trained
on and validated on, and tested on the same images as the whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dropopt.config import ConfigError, DataConfig, suggestion
from dropopt.owncode import own_errors, own_function
from dropopt.training.data import vision
from dropopt.training.data.arrays import Source, from_arrays, read_npz
from dropopt.training.data.dataset import Dataset, room
from dropopt.training.data.folder import read_folder
from dropopt.training.data.progress import tracked
from dropopt.training.data.split import Split
from dropopt.training.data.splits import stratified

NAMES = ("digits", *vision.MNIST_LIKE, *vision.OTHERS)

#: Numbers that are converted at a time: few enough that the copies in between stay small.
CHUNK = 2**22


def load_data(config: DataConfig) -> Dataset:
    """The data set that ``config`` names, split and normalised, on the CPU.

    Everything that can be wrong with it is a :class:`ConfigError` that names the file.
    """
    found = _read(config)
    if isinstance(found, Dataset):
        if config.subset is not None or config.image_size is not None:
            raise ConfigError(f"{config.name} returns a ready Dataset: subset and image_size cannot apply to it")
        splits = found.splits()
        return replace(
            found,
            fingerprint=_fingerprint(splits) | found.fingerprint,
            duplicates=_duplicates(splits) | found.duplicates,
        )
    return _prepare(_resized(found, config.image_size), config)


@lru_cache(maxsize=1)
def load_once(config: DataConfig) -> Dataset:
    """:func:`load_data`, keeping the last one: for a process that trains on it again and again."""
    return load_data(config)


def _read(config: DataConfig) -> Source | Dataset:
    kind, colon, place = config.name.partition(":")
    if config.name == "digits":
        return _digits()
    if config.name in NAMES:
        return vision.read_named(config.name, _path(config.root))
    if kind == "folder" and place:
        return read_folder(_path(place), config.image_size)
    if kind == "numpy" and place:
        return read_npz(_path(place))
    if os.path.exists(config.name):  # a path, C:\photographs among them
        kind = "folder" if os.path.isdir(config.name) else "numpy"
        raise ConfigError(f"data.name {config.name!r} is a path; did you mean '{kind}:{config.name}'?")
    if colon and kind not in ("folder", "numpy"):
        return _from_function(config.name)
    raise ConfigError(
        f"data.name {config.name!r} is unknown; "
        f"{suggestion(config.name, [*NAMES, 'folder:PATH', 'numpy:FILE.npz', 'module:function'])}"
    )


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: there is no such user's home folder") from None


def _digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    return Source("digits", tuple("0123456789"), Split(images, torch.from_numpy(digits.target.astype(np.int64))))


def _from_function(name: str) -> Source | Dataset:
    """What a person's own function gives: (images, labels), named arrays as in a .npz file, or a Dataset."""
    function = own_function(name)
    with own_errors(name):
        given = function()
    if isinstance(given, Dataset):
        return given
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"x": given[0], "y": given[1]}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} must return (images, labels), a mapping of arrays or a Dataset, got {type(given).__name__}"
        )
    return from_arrays(name, given)


# -- from a source to splits


def _prepare(source: Source, config: DataConfig) -> Dataset:
    splits = _split(source, config)
    normalised, mean, std = _normalise(source.name, splits)
    return Dataset(
        name=source.name,
        classes=source.classes,
        **normalised,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=_fingerprint(splits),
        duplicates=_duplicates(splits),
        remarks=source.remarks,
    )


def _split(source: Source, config: DataConfig) -> dict[str, Split]:
    pool, validation, test = source.train, source.validation, source.test

    def carve(purpose: str, count: int, least: int, spare: int) -> tuple[Split, Split]:
        limits = {"least": least, "spare": spare, "seed": config.split_seed}
        try:
            drawn = stratified(pool.labels, count, **limits, purpose=purpose, classes=source.classes)
        except ConfigError as error:
            raise ConfigError(f"{source.name}: {error}") from None
        return pool.take(drawn), pool.take(~drawn)

    def share(fraction: float) -> int:
        kinds = len(source.classes)  # each class is on both sides
        return min(max(round(fraction * len(pool)), kinds), len(pool) - kinds)

    if test is None:
        test, pool = carve("test", share(config.test_fraction), 1, 1)
    if config.subset is not None:
        # Of each class at least one to train on and, where that is drawn from it, one to validate on.
        pool, _ = carve("subset", config.subset, 2 if validation is None else 1, 0)
    if validation is None:
        validation, pool = carve("validation", share(config.validation_fraction), 1, 1)
    return {"train": pool, "validation": validation, "test": test}


def _resized(source: Source, side: int | None) -> Source:
    if side is None or source.train.images.shape[2:] == (side, side):
        return source

    def resized(split: Split) -> Split:
        return Split(_resize(source.name, split.images, side), split.labels)

    validation, test = (split and resized(split) for split in (source.validation, source.test))
    return replace(source, train=resized(source.train), validation=validation, test=test)


def _resize(name: str, images: Tensor, side: int) -> Tensor:
    """Squeezed to (N, C, side, side), antialiased, in the type they had."""
    out = room(name, (*images.shape[:2], side, side), images.dtype)
    count = min(_at_a_time(images), _at_a_time(out))
    pairs = list(zip(torch.split(images, count), torch.split(out, count), strict=True))
    for given, place in tracked(pairs, len(pairs), "resizing images"):
        small = F.interpolate(given.float(), (side, side), mode="bilinear", antialias=True)
        place.copy_(small if images.is_floating_point() else small.round().clamp(0, 255))
    return out


def _at_a_time(images: Tensor) -> int:
    """How many of ``images`` hold :data:`CHUNK` numbers; at least one."""
    return max(1, CHUNK // images.shape[1:].numel())


# -- their numbers


def _normalise(source: str, splits: Mapping[str, Split]) -> tuple[dict[str, Split], Tensor, Tensor]:
    """Float images with the training split's mean 0 and deviation 1 per channel; a constant channel only moves to 0."""
    images = {name: _floats(split.images) for name, split in splits.items()}
    low, high = images["train"].amin((0, 2, 3)), images["train"].amax((0, 2, 3))
    # A mean is rounded, and the deviation from a rounded mean is not 0.
    mean = torch.where(low == high, low, _channel_mean(images["train"], torch.Tensor.double).float())
    for tensor in images.values():
        tensor.sub_(mean[:, None, None])
    std = torch.where(low == high, 1.0, _channel_mean(images["train"], _squares).sqrt().float())
    for tensor in images.values():
        tensor.div_(std[:, None, None])
        if not torch.stack(tensor.aminmax()).isfinite().all():
            largest = max(abs(low.min().item()), abs(high.max().item()))
            raise ConfigError(f"{source}: images must hold numbers that float32 can scale, got up to {largest:g}")
    return {name: Split(images[name], split.labels) for name, split in splits.items()}, mean, std


def _squares(images: Tensor) -> Tensor:
    return images.double().square()


def _floats(images: Tensor) -> Tensor:
    """(N, C, H, W) float32 whose channels lie next to each other in memory: what ``channels_last`` wants."""
    n, c, h, w = images.shape
    return torch.empty(n, h, w, c).permute(0, 3, 1, 2).copy_(images)


def _channel_mean(images: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of ``of(images)`` per channel, (C,) float64; by chunks, which keeps memory small."""
    sums = [of(chunk).sum((0, 2, 3)) for chunk in torch.split(images, _at_a_time(images))]
    return torch.stack(sums).sum(0) * images.shape[1] / images.numel()


def _fingerprint(splits: Mapping[str, Split]) -> dict[str, str]:
    return {name: split.digest() for name, split in splits.items()}


def _duplicates(splits: Mapping[str, Split]) -> dict[str, int]:
    """How many images of a later split are exact copies of one of an earlier split."""
    hashes = {name: _image_hashes(split.images) for name, split in splits.items()}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    known = {name: set(values) for name, values in hashes.items()}
    return {f"{a}/{b}": sum(value in known[a] for value in hashes[b]) for a, b in pairs}


def _image_hashes(images: Tensor) -> list[bytes]:
    rows = images.contiguous().numpy()
    return [hashlib.blake2b(memoryview(row).cast("B"), digest_size=16).digest() for row in rows]
