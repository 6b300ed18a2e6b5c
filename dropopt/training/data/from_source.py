"""From a source to a data set: resize, split, normalise, and count what leaks between splits.

Missing splits are drawn from the training images: the test split first, then ``subset`` of the rest, then the
validation split. A smaller subset therefore leaves fewer images for training and validation, and the same test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dropopt.config import ConfigError, DataConfig
from dropopt.inputs import Inputs, parts
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.memory import allocate, images_per_chunk
from dropopt.training.data.pixels import PixelFormat, white_of
from dropopt.training.data.progress import tracked
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split
from dropopt.training.data.stratify import stratified


def dataset_from(source: Source, config: DataConfig) -> Dataset:
    """Resize, split and normalise ``source`` as ``config`` says."""
    source = _resized(source, config.image_size)
    splits = _split(source, config)
    normalised, mean, std = _normalise(source.name, splits)
    return Dataset(
        name=source.name,
        classes=source.classes,
        **normalised,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint={name: split.digest() for name, split in splits.items()},
        duplicates=duplicates(splits),
        remarks=source.remarks,
        drawn=tuple(name for name in ("validation", "test") if getattr(source, name) is None),
        pixels=PixelFormat(
            white=source.white if source.white is not None or source.files else white_of(source.train.tensor),
            whole=not source.train.tensor.is_floating_point(),
            files=source.files,
        ),
    )


def duplicates(splits: Mapping[str, Split]) -> dict[str, int]:
    """How many images of a later split are exact copies of images of an earlier split."""
    hashes = {name: _image_hashes(split.images) for name, split in splits.items()}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    known = {name: set(values) for name, values in hashes.items()}
    return {f"{a}/{b}": sum(value in known[a] for value in hashes[b]) for a, b in pairs}


def _image_hashes(images: Inputs) -> list[bytes]:
    columns = [part.contiguous().numpy() for part in parts(images).values()]
    found = []
    for rows in zip(*columns, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            digest.update(np.ascontiguousarray(row).reshape(-1).view(np.uint8).data)
        found.append(digest.digest())
    return found


# -- splitting


def _split(source: Source, config: DataConfig) -> dict[str, Split]:
    pool, validation, test = source.train, source.validation, source.test

    def carve(purpose: str, count: int, least: int, spare: int, seed: int) -> tuple[Split, Split]:
        limits = {"least": least, "spare": spare, "seed": seed}
        try:
            drawn = stratified(pool.labels, count, **limits, purpose=purpose, classes=source.classes)
        except ConfigError as error:
            kinds = len(source.classes)
            many = kinds > 8 and len(pool) < 8 * kinds and all(map(str.isdecimal, source.classes))
            advice = "; to predict numbers, return a TensorDataset with targets as floats" if many else ""
            raise ConfigError(f"{source.name}: {error}{advice}") from None
        return pool.take(drawn), pool.take(~drawn)

    def share(fraction: float, spare: int) -> int:
        kinds = len(source.classes)  # both sides need images of each class
        return min(max(round(fraction * len(pool)), kinds), len(pool) - spare * kinds)

    if test is None:
        spare = 1 if validation is not None else 2  # an image of each class to train on, and one to validate on
        test, pool = carve("test", share(config.test_fraction, spare), 1, spare, config.split_seed)
    if config.subset is not None:
        # Each class needs an image to train on, and one to validate on if validation images are drawn from the pool.
        pool, _ = carve("subset", config.subset, 2 if validation is None else 1, 0, config.split_seed)
    if validation is None:
        seed = config.split_seed if config.validation_seed is None else config.validation_seed
        validation, pool = carve("validation", share(config.validation_fraction, 1), 1, 1, seed)
    return {"train": pool, "validation": validation, "test": test}


# -- resizing


def _resized(source: Source, side: int | None) -> Source:
    if side is None or source.train.tensor.shape[2:] == (side, side):
        return source

    def resized(split: Split) -> Split:
        return Split(resize(source.name, split.tensor, (side, side)), split.labels)

    validation, test = (split and resized(split) for split in (source.validation, source.test))
    return replace(source, train=resized(source.train), validation=validation, test=test)


def resize(name: str, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to ``size`` (height, width) with antialiasing, ignoring the aspect ratio; the dtype stays."""
    out = allocate(name, (*images.shape[:2], *size), images.dtype)
    count = min(images_per_chunk(images), images_per_chunk(out))
    pairs = list(zip(torch.split(images, count), torch.split(out, count), strict=True))
    for given, place in tracked(pairs, len(pairs), "resizing images"):
        small = F.interpolate(given.float(), size, mode="bilinear", antialias=True)
        place.copy_(small if images.is_floating_point() else small.round().clamp(0, 255))
    return out


# -- normalising


def _normalise(source: str, splits: Mapping[str, Split]) -> tuple[dict[str, Split], Tensor, Tensor]:
    """Normalise each channel with the training split's mean and standard deviation.

    A channel that is constant in the training split is shifted to 0 and not scaled.
    """
    images = {name: _floats(split.tensor) for name, split in splits.items()}
    for name, split in splits.items():
        if split.tensor.is_floating_point() and not torch.stack(split.tensor.aminmax()).isfinite().all():
            raise ConfigError(f"{source}: {name} images hold values that are not finite")
    largest = images["train"].abs().max().item()
    mean, constant = _mean(images["train"])
    for tensor in images.values():  # StandaloneModel repeats these operations in this order
        tensor.sub_(mean[:, None, None])
    std = _deviation(images["train"], constant)
    for tensor in images.values():
        tensor.div_(std[:, None, None])
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise ConfigError(f"{source}: images must hold values that float32 can normalise, got up to {largest:g}")
    return {name: Split(images[name], split.labels) for name, split in splits.items()}, mean, std


def normalisation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of ``images``, as those of a training split in memory."""
    centred = _floats(images)
    mean, constant = _mean(centred)
    return mean, _deviation(centred.sub_(mean[:, None, None]), constant)


def _mean(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel, and which channels are constant."""
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    # The mean of a constant channel is rounded, and the deviation from a rounded mean would not be 0.
    return torch.where(low == high, low, _channel_mean(images, torch.Tensor.double).float()), low == high


def _deviation(centred: Tensor, constant: Tensor) -> Tensor:
    return torch.where(constant, 1.0, _channel_mean(centred, _squares).sqrt().float())


def _squares(images: Tensor) -> Tensor:
    return images.double().square()


def _floats(images: Tensor) -> Tensor:
    """Copy to float32 (N, C, H, W) in channels_last memory."""
    n, c, h, w = images.shape
    return torch.empty(n, h, w, c).permute(0, 3, 1, 2).copy_(images)


def _channel_mean(images: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of ``of(images)`` per channel, (C,) float64, computed by chunks to keep memory small."""
    sums = [of(chunk).sum((0, 2, 3)) for chunk in torch.split(images, images_per_chunk(images))]
    return torch.stack(sums).sum(0) * images.shape[1] / images.numel()
