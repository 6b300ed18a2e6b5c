"""Stream: a split that is read anew in each epoch, because its samples are random or do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dropopt.config import ConfigError
from dropopt.inputs import parts
from dropopt.training.data.collate import together
from dropopt.training.data.progress import tracked
from dropopt.training.data.reading import Indexed, OwnBatches
from dropopt.training.data.split import Split

#: Samples and bytes that are kept in memory to measure a data set.
SAMPLES, BYTES = 2048, 2**28


@dataclass(frozen=True, eq=False)
class Stream:
    """A split of a data set that is read while the network is trained.

    Args:
        reader: Reads the samples as the user's data set gives them.
        prepare: Normalises a batch.
        sample: Some samples, prepared, in memory.
        classes: Number of classes; 0 if the targets are not classes.
        largest: The largest class number of a mask; 0 for other targets.
    """

    reader: Indexed | OwnBatches
    prepare: Callable[[Split], Split]
    sample: Split
    classes: int = 0
    largest: int = 0

    def __len__(self) -> int:
        return len(self.reader)

    def to(self, device: torch.device | str) -> Stream:
        """The stream itself, whose batches are moved when they are read."""
        return self

    def head(self, count: int) -> Split:
        """Some samples, always the same."""
        return self.sample.head(count)

    def batches(self, size: int) -> Iterator[Split]:
        """All samples in order, with the same random transforms at each call."""
        for batch in self.reader.in_order(size, 0, "evaluation"):
            yield self._checked(batch)

    def epoch(self, bounds: list[slice], seed: int, number: int) -> Iterator[Split]:
        """The batches of a training epoch, in an order and with transforms of its own.

        Args:
            bounds: The positions of each batch in the epoch's order; a loader with batches of its own ignores them.
            seed: Seed of the training.
            number: The epoch.
        """
        if isinstance(self.reader, Indexed):
            found = self.reader.shuffled(bounds, seed, number)
        else:
            found = self.reader.in_order(0, seed, "reading", number)
        for batch in found:
            yield self._checked(batch)

    def in_memory(self) -> Split:
        """All samples, read once."""
        size = 64
        steps = -(-len(self) // size)
        return together(self.reader.name, list(tracked(self.batches(size), steps, f"reading {self.reader.name}")))

    def _checked(self, batch: Split) -> Split:
        if self.classes and not 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < self.classes:
            raise ConfigError(
                f"{self.reader.name} has class numbers in [{batch.labels.min()}, {batch.labels.max()}], but there are "
                f"{self.classes} classes; correct its attribute 'classes'"
            )
        return self.prepare(batch)


def sample_of(reader: Indexed | OwnBatches) -> Split:
    """Read some samples: all of a small data set, else samples from all over it, or a loader's first batches."""
    if not isinstance(reader, Indexed):
        read: list[Split] = []
        for batch in reader.in_order(0, 0, "sample"):
            read.append(batch)
            if sum(map(len, read)) >= min(SAMPLES, _affordable(batch)):
                break
        return together(reader.name, read)
    if not len(reader):
        raise ConfigError(f"{reader.name} has no samples")
    first = next(iter(reader.in_order(1, 0, "sample")))
    count = min(SAMPLES, _affordable(first))
    chosen = torch.arange(len(reader))
    if count < len(reader):
        chosen = torch.randperm(len(reader), generator=torch.Generator().manual_seed(0))[:count].sort().values
    groups = list(torch.split(chosen, 64))
    batches = reader.batches(groups, 0, "sample")
    return together(reader.name, list(tracked(batches, len(groups), f"reading {reader.name}")))


def bytes_of(sample: Split) -> int:
    """Memory that one sample takes as float32 numbers."""
    return 4 * sum(part[0].numel() for part in parts(sample.images).values())


def _affordable(sample: Split) -> int:
    return max(2, BYTES // bytes_of(sample))
