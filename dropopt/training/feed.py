"""Feed: the batches of each epoch, from memory or from a data set that is read while the network is trained.

The order of the data and the augmentation have streams of their own, functions of the seed and the epoch only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dropopt.config import ConfigError, TrainConfig
from dropopt.inputs import Inputs, each
from dropopt.randomness import generator
from dropopt.training import augment
from dropopt.training.data.reading import OwnBatches
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream
from dropopt.training.evaluate import in_layout


def feed_of(split: Split | Stream, config: TrainConfig, device: torch.device) -> _Memory | _Read:
    """The feed of a training split, on the device of the training.

    Its ``steps`` is the number of batches of an epoch. Its ``epoch(number)``, from 1, yields the inputs and targets
    of each batch.
    """
    return _Memory(split, config, device) if isinstance(split, Split) else _Read(split, config, device)


class _Memory:
    """Batches that are taken from tensors on the device."""

    def __init__(self, split: Split, config: TrainConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._images = each(lambda part: _rows_last(part.to(device)), split.images)
        self._labels = split.labels.to(device)
        self._bounds = _bounds(len(split), config.batch_size)

    @property
    def steps(self) -> int:
        return len(self._bounds)

    def epoch(self, number: int) -> Iterator[tuple[Inputs, Tensor]]:
        config = self._config
        order = torch.randperm(len(self._labels), generator=generator(config.seed, "order", number))
        order = order.to(self._device)
        draws = augment.draw(config.augment, self._images, seed=config.seed, epoch=number, device=self._device)
        for where in self._bounds:
            index = order[where]
            images = augment.take(self._images, index, draws, where)
            yield in_layout(images, config), self._labels.index_select(0, index)


class _Read:
    """Batches that are read from the user's data set."""

    def __init__(self, stream: Stream, config: TrainConfig, device: torch.device) -> None:
        self._stream, self._config, self._device = stream, config, device
        self._own = isinstance(stream.reader, OwnBatches)
        self._bounds = [] if self._own else _bounds(len(stream), config.batch_size)
        if config.augment and self._own:
            raise ConfigError("augment is not for a loader with batches of its own; augment in its data set")

    @property
    def steps(self) -> int:
        reader = self._stream.reader
        return reader.steps if isinstance(reader, OwnBatches) else len(self._bounds)

    def epoch(self, number: int) -> Iterator[tuple[Inputs, Tensor]]:
        config, device = self._config, self._device
        few = self._stream.head(1).images
        draws = augment.draw(
            config.augment, few, seed=config.seed, epoch=number, device=device, count=len(self._stream)
        )
        done = 0
        for batch in self._stream.epoch(self._bounds, config.seed, number):
            here = batch.to(device)
            where = slice(done, done + len(here))
            done = where.stop
            images = here.images
            if draws is not None:
                images = augment.take(images, torch.arange(len(here), device=device), draws, where)
            yield in_layout(images, config), here.labels


def _rows_last(images: Tensor) -> Tensor:
    # load_data returns images in this layout; those from elsewhere are converted once here.
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def _bounds(count: int, size: int) -> list[slice]:
    """The slice of an epoch's order that each batch takes.

    A last batch of one image, for which BatchNorm fails, is merged into the batch before it.
    """
    starts = list(range(0, count, size))
    if size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]
