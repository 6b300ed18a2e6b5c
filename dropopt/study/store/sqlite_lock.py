"""The lock of a SQLite file: one process writes to it at a time.

SQLite allows several writers, but Optuna's transactions on it do not exclude each other: two workers may start the same
enqueued trial. Reading needs no lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
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


#: The files whose locks this process has reserved.
_reserved: set[Path] = set()


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` inside the block, where each :class:`WriterLock` of this process shares it.

    A command that opens the storage several times would otherwise have to end if another one came in between.
    """
    lock, file = WriterLock(path), path.absolute()
    _reserved.add(file)
    try:
        yield
    finally:
        _reserved.remove(file)
        lock.release()


class WriterLock:
    """Holds the lock of ``path`` until :meth:`release`, or until the process ends in any way.

    The lock file says which command holds it, for the message to others. See also :func:`reserved`.

    Raises:
        ConfigError: Another process holds it, or its file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + SUFFIX)
        self._lock = FileLock(self._file)
        self._shared = path.absolute() in _reserved
        if self._shared:
            return
        holder = self._holder()  # read before the attempt: filelock before version 4 empties the file
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if not self._file.exists():  # filelock also waits where the folder accepts no file
                raise ConfigError(
                    f"storage {path} cannot be locked: {self._file} cannot be created; give another --storage"
                ) from None
            raise _refusal(path, self._holder() or holder) from None
        except OSError as error:
            raise ConfigError(f"storage {path} cannot be locked: {error.strerror}; give another --storage") from None
        with contextlib.suppress(OSError):
            self._file.write_text(f"{_program()} (process {os.getpid()})", encoding="utf-8")

    def release(self) -> None:
        """Release the lock and remove its file.

        A process that has opened the file in the meantime notices that it is gone: filelock checks its link count.
        """
        if self._shared:
            return
        with contextlib.suppress(OSError):
            self._file.unlink()
        self._lock.release()

    def _holder(self) -> str:
        """What the lock file says; empty if it says nothing, as the files of older versions do."""
        try:
            found = self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
        return found if found.isprintable() else ""


def _refusal(path: Path, holder: str) -> ConfigError:
    instead = "start it with a larger --n-jobs instead"
    if holder.startswith("dropopt storage-proxy"):
        instead = "give the address of the proxy instead (--storage grpc://HOST:PORT)"
    return ConfigError(
        f"storage {path} is in use by {holder or 'another dropopt command'}, and a SQLite file has one writer; wait "
        f"until it ends, {instead}, or use PostgreSQL for several workers (--storage postgresql://USER@HOST/NAME)"
    )


def _program() -> str:
    """The command of this process, without its arguments, which may contain a password."""
    given = [*sys.argv, "", ""]
    program = Path(given[0])
    ours = program.stem == "dropopt" or program.parts[-2:] == ("dropopt", "__main__.py")
    if ours and re.fullmatch("[a-z][a-z-]*", given[1]):
        return f"dropopt {given[1]}"
    return program.name if given[0] not in ("", "-c") else "Python"
