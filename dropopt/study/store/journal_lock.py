"""The lock of a journal file among dropopt's processes, which ends with its process.

Optuna's lock is a symbolic link beside the file. If its process dies, or is stopped, others wait for 30 seconds and
then remove it. A process that continues after that would write while another one does. The processes of dropopt
therefore also lock the file itself. One that holds this lock and finds the link of another one knows that the other has
died.
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


@contextmanager
def writing(descriptor: int, path: Path) -> Iterator[None]:
    """Hold the lock of a journal inside the block.

    Args:
        descriptor: The open file.
        path: Its path.

    Raises:
        BlockingIOError: Another process holds the lock, and does not release it in time.
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
                raise BlockingIOError(
                    errno.EAGAIN, f"another process holds the lock of {path}; it may be stopped"
                ) from None
            time.sleep(PAUSE)
        except OSError:
            return False
        else:
            return True
