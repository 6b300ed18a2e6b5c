"""The resources of this machine: its cores and GPUs, and the number of trials to run at a time."""

from __future__ import annotations

import os
from pathlib import Path

from dropopt.config import ConfigError

#: The largest number of slots that share a GPU if ``n_jobs`` is -1.
SLOTS_PER_CARD = 4

#: The environment variable that lists the GPUs that a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def slots(n_jobs: int, cards: int) -> int:
    """Return the number of trials to run at a time.

    Args:
        n_jobs: The requested number; -1 for one per core, at most :data:`SLOTS_PER_CARD` per GPU.
        cards: The number of GPUs; 0 if trials train on the CPU.

    Raises:
        ConfigError: ``n_jobs`` is 0 or below -1.
    """
    if n_jobs == 0 or n_jobs < -1:
        raise ConfigError(f"n-jobs must be 1 or more, or -1 for one per core, got {n_jobs}")
    if n_jobs > 0:
        return n_jobs
    return min(cores(), cards * SLOTS_PER_CARD) if cards else cores()


def cards(device: str) -> list[str]:
    """Return the GPUs that slots share, each as a value of :data:`VISIBLE`; an empty list if trials use the CPU.

    ``auto`` distributes the slots over all visible GPUs. With a named device such as ``cuda:1`` every slot sees all
    GPUs, so that the index keeps its meaning.
    """
    given = os.environ.get(VISIBLE)
    if given is None:
        visible = [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    else:
        visible = [card.strip() for card in given.split(",") if card.strip() and not card.strip().startswith("-")]
    if device == "cpu" or not visible:
        return []
    return visible if device == "auto" else [",".join(visible)]


def cores() -> int:
    """Return the number of cores that this process may use, within the limit of its container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count
