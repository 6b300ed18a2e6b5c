"""What this machine offers a study: cores, graphics cards, and so how many trials at a time."""

from __future__ import annotations

import os
from pathlib import Path

from dropopt.config import ConfigError

#: Slots that share a graphics card.
SLOTS_PER_CARD = 4

#: CUDA's own variable: the cards that a process may see.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def slots(n_jobs: int, cards: int) -> int:
    """Trials at a time: ``n_jobs``, or for -1 one for each core, at most :data:`SLOTS_PER_CARD` for each card."""
    if n_jobs == 0 or n_jobs < -1:
        raise ConfigError(f"n-jobs must be 1 or more, or -1 for one for each core, got {n_jobs}")
    if n_jobs > 0:
        return n_jobs
    return min(cores(), cards * SLOTS_PER_CARD) if cards else cores()


def cards(device: str) -> list[str]:
    """The graphics cards on which trials of ``device`` train, each as a value of :data:`VISIBLE`; none for a CPU.

    ``auto`` takes them all in turn; a card that is named is the one.
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
    """Cores that this process may use; a container's limit counts."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count
