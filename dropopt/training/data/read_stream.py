"""Data sets of the user's own that are read anew in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dropopt.config import ConfigError, DataConfig
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.from_source import normalisation, resize
from dropopt.training.data.pixels import PixelFormat, white_of
from dropopt.training.data.progress import tracked
from dropopt.training.data.read_torch import (
    SPLITS,
    are_classified_images,
    as_is,
    colours_last,
    drawn_splits,
    named_classes,
)
from dropopt.training.data.reading import Indexed, OwnBatches, is_random, reader_of, repeats
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream, sample_of

Readers = dict[str, Indexed | OwnBatches]
Prepare = Callable[[Split], Split]


def read_stream(name: str, splits: Mapping[str, Any], config: DataConfig, why: str) -> Dataset:
    """Return a data set whose training samples are read anew in each epoch.

    What is measured on training data in memory (mean, deviation, complexity) is measured on some samples. Validation
    and test samples are read once into memory, unless ``config.in_memory`` is false.

    Args:
        name: The name of the data set.
        splits: Data sets or loaders by split; missing ones are drawn from the training samples.
        config: Its settings.
        why: The reason, in words.
    """
    readers, drawn = _readers(name, splits, config)
    sample = sample_of(readers["train"])
    remarks = [f"training samples are read anew in each epoch, since {why}"]
    if drawn and is_random(readers["train"]):
        remarks.append(
            f"the {' and '.join(drawn)} samples are drawn from the training samples and have their random transforms; "
            "give data sets without them"
        )
    if not (steady := repeats(readers["train"])):
        remarks.append("transforms draw from generators of their own, so a training cannot be repeated bit for bit")
    images = are_classified_images(sample)
    if images:
        about, prepare = _images(config, sample)
        remarks += colours_last(sample)
    elif config.image_size is not None:
        raise ConfigError(f"{name}: image_size is for images (C, H, W) with class numbers; resize in the data set")
    else:
        about, prepare = {}, _plain
    classes, largest = _classes(splits["train"], readers["train"], sample)
    streams = {
        split: Stream(
            reader, prepare, prepare(sample if split == "train" else sample_of(reader)), len(classes), largest
        )
        for split, reader in readers.items()
    }
    validation, test = (
        streams[split] if config.in_memory is False else streams[split].in_memory() for split in SPLITS[1:]
    )
    prints = {
        split: f"{len(one)} {one.sample.digest()}"
        for split, one in zip(SPLITS, (streams["train"], validation, test), strict=True)
    }
    if not steady:
        prints["train"] = f"{len(streams['train'])} samples"
    about |= {"fingerprint": prints, "remarks": tuple(remarks), "drawn": tuple(drawn)}
    return Dataset(name, classes, streams["train"], validation, test, **about)


def _readers(name: str, splits: Mapping[str, Any], config: DataConfig) -> tuple[Readers, list[str]]:
    """The reader of each split, and the splits that are drawn from the training samples."""
    found = {split: reader_of(f"{name}: {split}", given) for split, given in splits.items()}
    missing = [split for split in SPLITS if split not in found]
    pool = found["train"]
    if isinstance(pool, Indexed):
        drawn = drawn_splits(name, len(pool), set(found), config)
        return found | {split: pool.take(index) for split, index in drawn.items()}, missing
    if missing or config.subset is not None:
        wanted = f"{' and '.join(missing)} samples" if missing else "a subset"
        raise ConfigError(
            f"{name}: {wanted} cannot be drawn from a loader with a sampler or with batches of its own; give "
            "(train, validation, test)"
        )
    return found, []


def _images(config: DataConfig, sample: Split) -> tuple[dict[str, Any], Prepare]:
    """What is known about images, and the function that resizes and normalises them; measured on ``sample``."""
    side = config.image_size

    def sized(images: Tensor) -> Tensor:
        return images if side is None or images.shape[2:] == (side, side) else resize("images", images, (side, side))

    raw: Any = sample.images
    mean, std = normalisation(sized(raw).float())

    def prepare(batch: Split) -> Split:
        images: Any = batch.images
        scaled = sized(images).float().clone().sub_(mean[:, None, None]).div_(std[:, None, None])
        return Split(scaled.contiguous(memory_format=torch.channels_last), batch.labels)

    pixels = PixelFormat(white=white_of(raw), whole=not raw.is_floating_point())
    return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist()), "pixels": pixels}, prepare


def _plain(batch: Split) -> Split:
    return Split(as_is(batch.images), batch.labels)


def _classes(given: Any, reader: Indexed | OwnBatches, sample: Split) -> tuple[tuple[str, ...], int]:
    """The names of the classes, and the largest class number. Without names, all targets are read once."""
    if sample.labels.is_floating_point():
        return (), 0
    largest = int(sample.labels.max())
    single = sample.labels.ndim == 1
    if names := named_classes(given, largest + 1):
        return (names, 0) if single else ((), len(names) - 1)
    if len(sample) < len(reader):
        steps = -(-len(reader) // 64)
        batches = tracked(reader.in_order(64, 0, "targets"), steps, f"reading the targets of {reader.name}")
        largest = max(largest, *(int(batch.labels.max()) for batch in batches))
    return (tuple(map(str, range(largest + 1))), 0) if single else ((), largest)
