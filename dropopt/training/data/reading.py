"""Reading PyTorch data sets and loaders in batches, with random transforms that repeat.

Transforms draw from the global random states of torch, NumPy and Python. These are seeded for each batch while it is
read, and restored afterwards: the same seed and epoch give the same samples, and dropout masks, which are drawn from
torch's global state as well, do not depend on what a data set draws.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from dropopt.config import ConfigError
from dropopt.randomness import everywhere, generator
from dropopt.seeds import derived_seed
from dropopt.training.data.collate import joined, stacked
from dropopt.training.data.split import Split

#: Samples that are read repeatedly to find out whether they are drawn at random, and how often.
COMPARED, READINGS = 32, 3


@dataclass(frozen=True, eq=False)
class Indexed:
    """A data set whose samples are read by number, in any order.

    Args:
        name: Begins messages about it.
        data: The data set.
        index: Numbers of its samples that belong to this split.
        workers: The arguments of a DataLoader that say how it is read.
        collate: From a list of samples to a batch; None to stack them.
    """

    name: str
    data: Any
    index: Tensor
    workers: dict[str, Any] = field(default_factory=dict)
    collate: Any = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, chosen: Tensor) -> Indexed:
        """The samples at ``chosen``: positions, or a mask."""
        return replace(self, index=self.index[chosen])

    def batches(self, groups: list[Tensor], seed: int, *names: str | int) -> Iterator[Split]:
        """Read the samples at the positions in ``groups``, one batch for each group."""
        numbers = [self.index[group].tolist() for group in groups]
        collate = partial(stacked, self.name) if self.collate is None else self.collate
        loader: DataLoader[Any] = DataLoader(self.data, batch_sampler=numbers, collate_fn=collate, **self.workers)
        for batch in _drawn(loader, seed, *names):
            yield batch if isinstance(batch, Split) else joined(self.name, [batch])

    def in_order(self, size: int, seed: int = 0, *names: str | int) -> Iterator[Split]:
        """Read all samples in order, ``size`` at a time."""
        return self.batches(list(torch.split(torch.arange(len(self)), size)), seed, *names)

    def shuffled(self, bounds: list[slice], seed: int, epoch: int) -> Iterator[Split]:
        """Read all samples in the order of ``epoch``, which is the same as for data in memory."""
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch))
        return self.batches([order[where] for where in bounds], seed, "reading", epoch)


@dataclass(frozen=True, eq=False)
class OwnBatches:
    """A loader that decides itself which samples it reads in which batches.

    Args:
        name: Begins messages about it.
        loader: The loader.
    """

    name: str
    loader: DataLoader[Any]

    def __len__(self) -> int:
        data = self.loader.dataset
        return len(data) if hasattr(data, "__len__") else self.steps * (self.loader.batch_size or 1)

    @property
    def steps(self) -> int:
        """Number of batches."""
        try:
            return len(self.loader)
        except TypeError:
            raise ConfigError(
                f"{self.name}: the loader has no length; give one with a fixed number of batches"
            ) from None

    def in_order(self, size: int, seed: int = 0, *names: str | int) -> Iterator[Split]:
        """Read the loader's batches. Their size is its own."""
        for batch in _drawn(self.loader, seed, *names):
            yield joined(self.name, [batch])


def reader_of(name: str, given: Any) -> Indexed | OwnBatches:
    """The reader of a data set or a loader.

    The data set of a loader is read by number if its sampler takes each sample once. Its workers are kept.
    """
    if not isinstance(given, DataLoader):
        check_numbered(name, given)
        return Indexed(name, given, torch.arange(len(given)))
    batches: Any = given.batch_sampler  # its sampler decides: with one of the user's own, given.sampler is not used
    sampler = batches.sampler if type(batches) is BatchSampler else None
    once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(given.dataset)  # type: ignore[arg-type]
    )
    if not once:
        return OwnBatches(name, given)
    workers: dict[str, Any] = {"num_workers": given.num_workers, "worker_init_fn": given.worker_init_fn}
    if given.num_workers:
        workers |= {"prefetch_factor": given.prefetch_factor, "multiprocessing_context": given.multiprocessing_context}
    collate = None if given.collate_fn is default_collate else given.collate_fn
    return Indexed(name, given.dataset, torch.arange(len(given.dataset)), workers, collate)  # type: ignore[arg-type]


def check_numbered(name: str, given: Any) -> None:
    """Refuse a data set whose samples have no numbers from 0 to its length."""
    if not hasattr(given, "__len__"):
        raise ConfigError(f"{name}: the data set has no length; give a DataLoader with a fixed number of batches")
    if isinstance(given, IterableDataset):
        raise ConfigError(f"{name}: samples of an IterableDataset have no numbers; give a DataLoader of it")


def is_random(reader: Indexed | OwnBatches) -> bool:
    """Whether repeated readings of the first samples differ, as random transforms make them do."""
    if isinstance(reader, OwnBatches):
        first = [next(reader.in_order(1, number, "compare"), None) for number in range(2)]
        return first[0] is None or first[1] is None or first[0].digest() != first[1].digest()
    alone = replace(reader, workers={})
    few = torch.arange(0, len(reader), max(1, len(reader) // COMPARED))[:COMPARED]
    readings = [alone.batches(list(torch.split(few, 1)), number, "compare") for number in range(READINGS)]
    return any(len({one.digest() for one in sample}) > 1 for sample in zip(*readings, strict=True))


def repeats(reader: Indexed | OwnBatches) -> bool:
    """Whether the same seed gives the same samples: not if a transform draws from a generator of its own."""
    readings = []
    for _ in range(2):
        batches = reader.in_order(8, 0, "repeat")
        readings.append([batch.digest() for batch, _ in zip(batches, range(2), strict=False)])
    return readings[0] == readings[1]


def _drawn(loader: DataLoader[Any], seed: int, *names: str | int) -> Iterator[Any]:
    """The batches of ``loader``, with draws that are functions of ``seed`` and ``names``."""
    fresh = copy.copy(loader)
    fresh._iterator = None  # persistent workers would go on drawing where the last epoch ended
    sampler = getattr(fresh.batch_sampler, "sampler", None)
    for own in (fresh.generator, getattr(fresh.sampler, "generator", None), getattr(sampler, "generator", None)):
        if isinstance(own, torch.Generator):
            own.manual_seed(derived_seed(seed, *names, "loader"))
    with everywhere(seed, *names, "start"):
        batches = iter(fresh)
    number = 0
    while True:
        with everywhere(seed, *names, number):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch
        number += 1
