"""Random streams: one seed, many independent generators, so that drawing from one never changes another.

Every draw outside the dropout masks has a stream of its own, named for a purpose and an index (an epoch, for example).
Such a stream is a function of the seed only: no generator state needs to be saved in a checkpoint. Dropout masks are
drawn from torch's global stream, whose state a checkpoint does hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dropopt.seeds import derived_seed


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Create a generator for the stream called ``names``.

    It is on the CPU whatever the device, so that every device gets the same draws.
    """
    return torch.Generator().manual_seed(derived_seed(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global random state, of the CPU and ``device``, inside a block; restore it afterwards."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derived_seed(seed, *names))
        yield


def global_state(device: torch.device) -> dict[str, Any]:
    """State of the generators that :func:`global_stream` seeds: the CPU's and that of ``device``."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def set_global_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Continue drawing from ``state``, as :func:`global_state` returned it."""
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], device)


def random_state() -> dict[str, Any]:
    """State of the generators of the CPU and of every CUDA device, and the number of this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "rank": _rank()}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Continue drawing from ``state``, as :func:`random_state` returned it.

    Of several processes that train one model, each takes only its own state, because all would draw the same masks from
    that of one: a checkpoint usually holds the state of the first.
    """
    if state.get("rank", 0) != _rank():  # states of earlier versions have none
        return
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def several_processes() -> bool:
    """Whether several processes train one model."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    return torch.distributed.get_rank() if several_processes() else 0


@contextmanager
def everywhere(seed: int, *names: str | int) -> Iterator[None]:
    """Seed the global random states of torch's CPU, NumPy and Python inside a block; restore them afterwards."""
    number = derived_seed(seed, *names)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
