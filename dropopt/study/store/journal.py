"""Journal storages of Optuna: append-only files, and Redis servers."""

from __future__ import annotations

import errno
import json
import os
import shlex
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file

from dropopt.config import ConfigError
from dropopt.study.store.journal_lock import marker, writing
from dropopt.study.store.sqlite import make_folder
from dropopt.study.store.url import VARIABLE, reason, redact


def open_journal(path: Path, create: bool) -> BaseStorage:
    """Open the journal file at ``path``; without ``create``, a missing file is an error."""
    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        make_folder(path.parent)
    elif not path.is_file():
        raise ConfigError(f"storage {path} is not a file; give a URL, a SQLite or a journal file")
    try:
        return JournalStorage(_backend(path))
    except OSError as error:
        raise ConfigError(f"storage {path} cannot be opened: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:  # a line that is valid, but not part of a journal
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"storage {path} is not a journal file: {error!r}") from None


def _backend(path: Path) -> Any:
    """Return a variant of Optuna's journal file that stays readable if a write fails or its process dies."""
    lock = JournalFileSymlinkLock(str(path))
    lock._lock_target_file = marker(path)

    class WholeLines(JournalFileBackend):
        """Appends whole lines or nothing."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            """Append ``logs``. An incomplete last line, left by a writer that died, is cut off first."""
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)  # a file that was removed is not created again
            try:
                with writing(descriptor, path), get_lock_file(lock):
                    _append(descriptor, lines.encode())
            finally:
                os.close(descriptor)

        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            """Yield the logs; raises :class:`ConfigError` at a damaged line that is not the last."""
            try:
                yield from super().read_logs(log_number_from)
            except ValueError:
                raise ConfigError(_damage(path)) from None

    return WholeLines(str(path), lock_obj=lock)


def _append(descriptor: int, lines: bytes) -> None:
    """Append ``lines`` to a journal whose lock is held; after an error the file is unchanged."""
    size = _end_of_last_line(descriptor)
    if size < os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, size)
    try:
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _end_of_last_line(descriptor: int) -> int:
    """Return the position after the last newline; what follows was never acknowledged."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - 65536)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _damage(path: Path) -> str:
    """Describe the first damaged line of a journal, and what to type."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line)
            except ValueError:
                name = shlex.quote(str(path))
                if number == 1:
                    return f"storage {path} is not a journal file: line 1 is not JSON; give another --storage"
                return (
                    f"storage {path} is damaged at line {number}; to keep the lines before it, type: "
                    f"head -n {number - 1} {name} > repaired.log"
                )
    return f"storage {path} was being changed while it was read; try again"


def open_redis(url: str) -> BaseStorage:
    """Open a journal on the Redis server at ``url``."""
    try:
        with warnings.catch_warnings():
            # Redis journals have been experimental since Optuna 3.1.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(url))
    except ImportError as error:
        raise ConfigError(f"storage {redact(url)} needs a driver: pip install redis") from error
    except Exception as error:  # of the driver, whose classes may not be installed
        raise ConfigError(f"storage {redact(url)} cannot be opened: {reason(error, url)}") from error
