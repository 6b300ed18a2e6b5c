"""Memory: how much a process uses, how many processes the kernel has killed, and which errors mean that it ran out."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

#: Bytes in a megabyte, in options and messages.
MEGABYTE = 1_000_000

#: Texts of the errors that torch, its allocators and the C library raise when memory runs out.
_MESSAGES = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")


def can_measure() -> bool:
    """Whether :func:`used` works on this system."""
    return Path("/proc/self/statm").exists()


def used(pid: int) -> int:
    """Return the bytes of memory that a process and its descendants use; 0 if the process has ended."""
    try:
        family = _family(pid)
        if len(family) == 1:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return sum(map(_share, family))  # a forked process shares memory, which must not count twice
    except (OSError, ValueError, IndexError):
        return 0


def kernel_kills() -> int | None:
    """Return how many processes the kernel has killed because memory ran out; None if the system does not count them.

    The counter of this process's control group is preferred to the machine's.
    """
    for file in _counters():
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None


def ran_out(error: BaseException | None) -> bool:
    """Whether ``error``, or the error that caused it, means that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES):
            return True
        error = error.__cause__
    return False


def prefer_as_victim() -> None:
    """Ask the kernel to kill this process before its parent, which records the trials, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:  # the loop also visits the processes that it appends
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return found


def _share(pid: int) -> int:
    """Return the bytes that a process uses, where memory that n processes share counts as 1/n."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _counters() -> list[Path]:
    """Return the files that may count the kernel's kills, the most specific first."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                found.append(Path("/sys/fs/cgroup" + group, "memory.events"))
            elif "memory" in controllers.split(","):
                found.append(Path("/sys/fs/cgroup/memory" + group, "memory.oom_control"))
    return [*found, Path("/proc/vmstat")]
