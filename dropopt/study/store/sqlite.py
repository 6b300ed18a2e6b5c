"""SQLite files: checked before they are used, and switched to the write-ahead log.

With the write-ahead log, readers such as the dashboard do not block the writer, nor the writer the readers, and storing
a report takes a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dropopt.config import ConfigError
from dropopt.study.store.url import VARIABLE, reason

#: Seconds to wait for another process that is writing to a SQLite file.
BUSY_TIMEOUT = 60

#: Files up to this size are checked for damage before they are written to, which takes half a second at most.
CHECKED_BYTES = 100_000_000


class Connection(sqlite3.Connection):
    """A SQLite connection that does not wait for the disk at every report.

    With the write-ahead log and ``synchronous=NORMAL``, the file stays consistent when the process or the machine
    crashes. A power failure can lose the last transactions; their trials then run again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


def prepare_sqlite(path: Path, create: bool) -> None:
    """Check the file, or create it, and switch it to the write-ahead log, which is stored in the file.

    A file that this process cannot write is only checked, unless ``create`` says that it will be written.
    """
    # Looked for before the file itself: another process may be about to create both.
    logs = (Path(f"{path}-{kind}") for kind in ("wal", "journal"))
    log = next((file for file in logs if file.exists()), None)
    if not path.exists():
        if log is not None:  # SQLite would write the pages of the old file into the new one
            raise ConfigError(
                f"storage {path} is missing, but {log}, which holds its last changes, is there: move the file back, or "
                f"remove {log.name} to start again"
            )
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        make_folder(path.parent)
    elif not path.is_file():
        raise ConfigError(f"storage {path} is not a file; give another --storage")
    elif not path.stat().st_size:
        raise ConfigError(
            f"storage {path} is empty (0 bytes): its content is lost; restore a copy, or remove it to start again"
        )
    try:
        if not path.exists():
            _create(path)
        reading = not create and is_read_only(path)
        with closing(connect_to_read(path) if reading else sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as connection:
            if not reading:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA schema_version").fetchone()
            if create:
                _check_pages(connection, path)
            elif not _is_complete(connection):
                raise ConfigError(f"storage {path} holds no study yet; run one first")
    except OSError as error:
        raise ConfigError(f"storage {path} cannot be created: {error.strerror}") from None
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"storage {path} is not a SQLite file; move the file or give another --storage") from None
        if _is_damage(error):
            raise _damaged(path, str(error)) from None
        raise ConfigError(f"storage {path} cannot be used: {reason(error)}") from None


def is_read_only(path: Path) -> bool:
    """Whether this process may not write the file, or not the files that SQLite needs beside it."""
    return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK))


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a file that this process cannot write.

    SQLite then needs the files of the write-ahead log as a writer has left them. Without them the file is complete, and
    it is read as one that does not change.
    """
    written = any(path.with_name(f"{path.name}-{kind}").exists() for kind in ("wal", "journal"))
    address = f"file:{quote(str(path.absolute()))}?{'mode=ro' if written else 'immutable=1'}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, check_same_thread=False, factory=Connection)


def _create(path: Path) -> None:
    """Create a database without tables, so that no other process ever sees an empty file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(draft, path)
    except OSError:  # a file system without hard links
        if not path.exists():
            draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Check a file of moderate size before it is written to: a truncated file may have whole pages at its start."""
    if path.stat().st_size > CHECKED_BYTES:
        return
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        found = str(error)
    if found != "ok":
        raise _damaged(path, found)


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite has found pages that it cannot read."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT


def _damaged(path: Path, found: str) -> ConfigError:
    """The error of a file with pages that cannot be read, and what to type."""
    return ConfigError(
        f"storage {path} cannot be used: {' '.join(found.split())}; restore a copy, or save what can be read with: "
        f"sqlite3 {shlex.quote(str(path))} .recover | sqlite3 recovered.db"
    )


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
