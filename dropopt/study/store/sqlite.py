"""SQLite files: checked before they are used, and switched to the write-ahead log.

With the write-ahead log, readers such as the dashboard do not block the writer, nor the writer the readers, and storing
a report takes a millisecond.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError
from dropopt.study.store.url import VARIABLE

#: Seconds to wait for another process that is writing to a SQLite file.
BUSY_TIMEOUT = 60


class Connection(sqlite3.Connection):
    """A SQLite connection that does not wait for the disk at every report.

    With the write-ahead log and ``synchronous=NORMAL``, the file stays consistent when the process or the machine
    crashes. A power failure can lose the last transactions; their trials then run again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


def prepare_sqlite(path: Path, create: bool) -> None:
    """Check the file, or create it, and switch it to the write-ahead log, which is stored in the file."""
    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        make_folder(path.parent)
    elif not path.is_file():
        raise ConfigError(f"storage {path} is not a file; give another --storage")
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA schema_version").fetchone()
            if not create and not _is_complete(connection):
                raise ConfigError(f"storage {path} holds no study yet; run one first")
        finally:
            connection.close()
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"storage {path} is not a SQLite file; move the file or give another --storage") from None
        raise ConfigError(f"storage {path} cannot be used: {error}") from None


def _is_complete(connection: sqlite3.Connection) -> bool:
    """Whether all of Optuna's tables exist. A process that only reads must not create those that are missing."""
    version_table = "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
    if connection.execute(version_table).fetchone() is None:
        return False
    return connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None


def make_folder(folder: Path) -> None:
    """Create the folder of a storage, and check that it is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be created: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {folder} is not writable; give another --storage")
