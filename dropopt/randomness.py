"""Random numbers: streams of their own for data and augmentation, and torch's global state for everything else.

Every draw outside the dropout masks has a name and an index (an epoch, say). Its stream is a function of the seed
alone, so one consumer cannot shift the numbers of another, and a checkpoint need not store any generator.

Dropout masks are drawn from torch's global generators, whose state a checkpoint does store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dropopt.seeds import derived_seed


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a fresh generator for the named stream; on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derived_seed(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's global generators seeded, and restore their state afterwards."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derived_seed(seed, *names))
        yield


def random_state() -> dict[str, Any]:
    """Return the state of torch's global generators: ``cpu``, and ``cuda``, a list with one state per device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`random_state` returned. States of CUDA devices are ignored where there is no CUDA."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
