"""SQLite files: checked before they are used, and switched to the write-ahead log.

The write-ahead log keeps readers (the dashboard) and the one writer out of each other's way and makes a report cost a
millisecond.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError
from dropopt.study.store.url import KNOWN_SQLITE_FILES, VARIABLE, file_identity, has_sqlite_header

if TYPE_CHECKING:
    pass


#: Seconds to wait for another writer of a SQLite file.
BUSY_TIMEOUT = 60


class Connection(sqlite3.Connection):
    """A SQLite connection that does not wait for the disk at every report.

    With the write-ahead log, ``synchronous=NORMAL`` keeps the file whole after a crash of the process or
    the machine; a power cut can lose the last moments, which are then trained again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


def prepare_sqlite(path: Path, create: bool) -> None:
    """Check the file, or make it, and switch it to the write-ahead log (which the file remembers)."""
    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        make_folder(path.parent)
    elif path.is_dir() or (path.stat().st_size and not has_sqlite_header(path)):
        raise ConfigError(f"storage {path} is not a SQLite file; move it away or give another --storage")
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA schema_version").fetchone()
            if not create and not _is_complete(connection):
                raise ConfigError(f"storage {path} holds no study yet; run one first")
        finally:
            connection.close()
        KNOWN_SQLITE_FILES.add(file_identity(path))
    except sqlite3.Error as error:
        raise ConfigError(f"storage {path} cannot be used: {error}") from None


def _is_complete(connection: sqlite3.Connection) -> bool:
    """Whether Optuna's tables are all there: one who only reads must not finish what another is making."""
    stamped = "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
    if connection.execute(stamped).fetchone() is None:
        return False
    return connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None


def make_folder(folder: Path) -> None:
    """Make the folder of a storage, and check that it is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {folder} is not writable; give another --storage")
