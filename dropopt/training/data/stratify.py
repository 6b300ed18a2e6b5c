"""Seeded, stratified samples: every class is represented in proportion to its size, and none is left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.randomness import generator


def stratified(
    labels: Tensor, count: int, *, least: int, spare: int, seed: int, purpose: str, classes: Sequence[str] = ()
) -> Tensor:
    """Draw ``count`` samples so that each class keeps its share of ``labels``.

    Args:
        labels: (N,) class numbers; every class in [0, max] must occur.
        count: How many samples to draw.
        least: Draw at least this many samples of each class.
        spare: Leave at least this many samples of each class undrawn.
        seed: Seed of the draw.
        purpose: Names the random stream and begins the error messages, for example ``"test"``.
        classes: Names of the classes for error messages.

    Returns:
        A mask (N,), true for the samples drawn.

    Raises:
        ConfigError: If no draw can satisfy ``count``, ``least`` and ``spare``.
    """
    sizes = torch.bincount(labels)
    allotted = _allot(sizes.tolist(), count, least, spare, purpose, classes)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    draw = generator(seed, "split", purpose)
    for label, number in enumerate(allotted):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=draw)[:number]]] = True
    return chosen


def _allot(
    sizes: list[int], count: int, least: int, spare: int, purpose: str, classes: Sequence[str] = ()
) -> list[int]:
    """Integers that sum to ``count``, each as close to its class's quota as its limits allow."""
    limits = [size - spare for size in sizes]
    for label, limit in enumerate(limits):
        if limit < least:
            name = f"class {classes[label]!r}" if classes else f"class number {label}"
            raise ConfigError(
                f"{purpose}: {name} has {quantity(sizes[label], 'image')}, at least {least + spare} are needed"
            )
    low, high = least * len(sizes), sum(limits)
    if not low <= count <= high:
        raise ConfigError(
            f"{purpose}: must be in [{low}, {high}] images for {quantity(len(sizes), 'class')}, got {count}"
        )
    quota = [size * count / sum(sizes) for size in sizes]
    allotted = [min(max(int(q), least), limit) for q, limit in zip(quota, limits, strict=True)]
    labels = range(len(sizes))
    while missing := count - sum(allotted):
        step = 1 if missing > 0 else -1
        free = [i for i in labels if least <= allotted[i] + step <= limits[i]]
        for label in sorted(free, key=lambda i: step * (allotted[i] - quota[i]))[: abs(missing)]:
            allotted[label] += step
    return allotted
