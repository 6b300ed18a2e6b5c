"""The lock of a SQLite file: one process writes to it at a time.

SQLite allows several writers, but Optuna's transactions on it do not exclude each other: two workers may start the same
enqueued trial. Reading needs no lock.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from dropopt.config import ConfigError

#: The suffix of the lock file, which exists while a study runs.
SUFFIX = ".lock"


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of ``path``; a lock file may remain where its process was killed."""
    file = path.with_name(path.name + SUFFIX)
    if not file.exists():
        return False
    probe = FileLock(file)
    try:
        probe.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    probe.release()
    return False


class WriterLock:
    """Holds the lock of ``path`` until :meth:`release`, or until the process ends in any way.

    Raises:
        ConfigError: Another process holds it, or its file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + SUFFIX)
        self._lock = FileLock(self._file)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if not self._file.exists():  # filelock also waits where the folder accepts no file
                raise ConfigError(
                    f"storage {path} cannot be locked: {self._file} cannot be created; give another --storage"
                ) from None
            raise ConfigError(
                f"storage {path} is in use by another dropopt run, and a SQLite file has one writer; wait until it "
                "ends, start it with a larger --n-jobs instead, or use PostgreSQL for several workers "
                "(--storage postgresql://USER@HOST/NAME)"
            ) from None
        except OSError as error:
            raise ConfigError(f"storage {path} cannot be locked: {error.strerror}; give another --storage") from None

    def release(self) -> None:
        """Release the lock and remove its file.

        A process that has opened the file in the meantime notices that it is gone: filelock checks its link count.
        """
        with contextlib.suppress(OSError):
            self._file.unlink()
        self._lock.release()
