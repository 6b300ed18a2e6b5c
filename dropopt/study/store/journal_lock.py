"""The lock of a journal file among dropopt's processes, which ends with its process.

Optuna's lock is a symbolic link beside the file. If its process dies, or is stopped, others wait for 30 seconds and
then remove it. A process that continues after that would write while another one does. The processes of dropopt
therefore also lock the file itself. One that holds this lock and finds the link of another one knows that the other has
died.

The lock of a process that lives is never broken, however long it has been stopped: it may have written half a line, and
would write the other half when it continues. The others wait for as long as they wait for any storage that does not
answer, and name the process.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Seconds to wait for the lock before the storage counts as unreachable, and between two tries.
WAIT, PAUSE = 1.0, 0.002


def marker(path: Path) -> str:
    """Return the target of dropopt's links: the journal, under a name that Optuna does not use."""
    return os.path.join(path.absolute().parent, ".", path.name)


class HeldError(BlockingIOError):
    """Another process holds the lock; the message is one line and says which, if the system tells."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._line = f"another process holds the lock of {path}; it may be stopped, or on another machine"
        if (pid := holder(descriptor)) is not None:
            self._line = f"process {pid} holds the lock of {path}"
            if _is_stopped(pid):
                self._line += f" and is stopped; continue it (kill -CONT {pid}) or end it (kill -9 {pid})"
        super().__init__(errno.EAGAIN, self._line)

    def __str__(self) -> str:
        return self._line


def holder(descriptor: int) -> int | None:
    """Return the id of the process that holds the lock of an open file; None if it is not known.

    Linux lists the locks of the processes in the same container.
    """
    file = os.fstat(descriptor)
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    held = (int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5] == name)
    return next((pid for pid in held if pid > 0), None)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


@contextmanager
def writing(descriptor: int, path: Path) -> Iterator[None]:
    """Hold the lock of a journal inside the block.

    Args:
        descriptor: The open file.
        path: Its path.

    Raises:
        HeldError: Another process holds the lock, and does not release it in time.
    """
    if fcntl is None or not _acquire(descriptor, path):
        yield
        return
    link = f"{path}.lock"
    with suppress(OSError):
        if os.readlink(link) == marker(path):
            os.unlink(link)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _acquire(descriptor: int, path: Path) -> bool:
    """Acquire the lock; returns False if the file system has no locks."""
    end = time.monotonic() + WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise HeldError(descriptor, path) from None
            time.sleep(PAUSE)
        except OSError:
            return False
        else:
            return True
