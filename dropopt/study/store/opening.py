"""Opening storages: a SQLite file by default, or any URL that Optuna supports.

Errors are one line and never contain a password: URLs in messages pass through
:func:`~dropopt.study.store.url.redact`.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from dropopt.config import ConfigError
from dropopt.study.store import sqlite
from dropopt.study.store.journal import open_journal, open_redis
from dropopt.study.store.patient import Guard, Patience, is_outage
from dropopt.study.store.proxy import SCHEME, is_remote_error, open_proxy
from dropopt.study.store.queries import find_study
from dropopt.study.store.sqlite_lock import WriterLock, reserved
from dropopt.study.store.url import file_of, reason, redact, resolve
from dropopt.study.store.validated_storage import ValidatedStorage

#: Seconds to wait for a database server to answer.
CONNECT_TIMEOUT = 5

#: Seconds after which PostgreSQL ends a transaction whose client does nothing. A worker that was stopped, or whose
#: machine has vanished, may hold the lock without which no other worker can start a trial.
IDLE_TIMEOUT = 20

#: How many times, and at what interval in seconds, to try to open a database that another process is creating.
OPENING_TRIES = 4
OPENING_PAUSE = 0.5

#: The packages that install a driver, where their name differs from the driver's.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open a storage.

    Args:
        url: A URL or the path of a journal file, from :func:`~dropopt.study.store.url.resolve`.
        create: Whether to create a file that does not exist. Commands that only read pass False, so that they never
            leave an empty file behind.

    Raises:
        ConfigError: The storage cannot be opened; the message gives the reason.
    """
    if url.startswith("redis"):
        return open_redis(url)
    if "://" not in url:
        return open_journal(Path(url), create)
    if url.startswith(f"{SCHEME}://"):
        return open_proxy(url, CONNECT_TIMEOUT)
    import sqlalchemy.exc

    try:
        parsed = sqlalchemy.engine.make_url(url)
        arguments = _engine_kwargs(parsed)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ConfigError(f"storage {url} is lost when this process ends; give a file: sqlite:///FILE.db")
            file = Path(str(parsed.database))
            sqlite.prepare_sqlite(file, create)
            if not create and sqlite.is_read_only(file):
                arguments = {"creator": partial(sqlite.connect_to_read, file)}
        backend = _open_database(url, arguments)
    except ConfigError:
        raise
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise ConfigError(f"storage {redact(url)} needs a database driver: {_driver(url)}") from error
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        hint = "sqlite:///FILE.db, postgresql://USER@HOST/NAME or a journal file"
        raise ConfigError(f"storage {redact(url)} is not a URL; give {hint}") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise ConfigError(f"storage {redact(url)} cannot be opened: {reason(error, url)}") from error
    return optuna.storages.get_storage(backend)


def is_storage_error(error: BaseException) -> bool:
    """Whether ``error`` was raised by a storage. Imports no driver: one that is not loaded cannot have raised it."""
    kinds: tuple[type[BaseException], ...] = (sqlite3.Error, optuna.exceptions.StorageInternalError)
    if (sqlalchemy := sys.modules.get("sqlalchemy")) is not None:
        kinds += (sqlalchemy.exc.SQLAlchemyError,)
    return isinstance(error, kinds) or is_remote_error(error)


def close(storage: BaseStorage) -> None:
    """Close the connections of ``storage``; SQLite then merges its write-ahead log into the file."""
    while hasattr(storage, "inner"):
        storage = storage.inner
    storage.remove_session()
    if hasattr(storage, "close"):
        storage.close()  # the connection to a storage proxy
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


class Opened:
    """An open storage, to be used with :func:`contextlib.closing`.

    Args:
        url: A URL or the path of a journal file.
        create: Whether to create a file that does not exist.
        patience: How long a process that writes waits for the storage; the process also locks a SQLite file. None for a
            process that only reads.

    Attributes:
        storage: The storage.
        direct: The same storage as Optuna opens it: calls are not repeated, and damaged attributes are not left out.

    Raises:
        ConfigError: The storage cannot be opened, or another process writes to the SQLite file.
        StorageError: The server of the storage stays unreachable.
    """

    def __init__(self, url: str, *, create: bool = True, patience: Patience | None = None) -> None:
        file = file_of(url)
        self._lock: WriterLock | None = None
        if patience is None:
            self.direct = open_storage(url, create=create)
            self.storage = ValidatedStorage(self.direct)
            return
        if file is not None and file.exists() and sqlite.is_read_only(file):
            raise ConfigError(f"storage {file} is not writable; give another --storage")
        if (locked := _file_of_one_writer(url)) is not None:
            self._lock = WriterLock(locked)
        try:
            self.direct = open_storage(url, create=create) if file is not None else patience.call(lambda: _reached(url))
        except BaseException:
            self._release()
            raise
        from dropopt.study.store.mirror import Mirror  # it imports SQLAlchemy

        self.storage = Mirror(self.direct, Guard(self.direct, patience, file))

    @property
    def exclusive(self) -> bool:
        """Whether no other process writes to the storage."""
        return self._lock is not None

    def close(self) -> None:
        """Close the connections."""
        close(self.storage)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


@contextmanager
def opened_study(storage: str | None, name: str | None) -> Iterator[optuna.Study]:
    """Open a study to read it.

    Args:
        storage: The storage as it was given; None for the default.
        name: The study; None for the only one in the storage.

    Raises:
        ConfigError: The storage cannot be opened, or has no such study.
    """
    with closing(Opened(resolve(storage), create=False)) as opened:
        yield find_study(opened.storage, name)


def reserve(url: str) -> AbstractContextManager[None]:
    """Keep other processes from writing to a SQLite file inside the block, also while it is not open.

    Other storages have several writers, and nothing is done for them.

    Raises:
        ConfigError: Another process writes to the file.
    """
    file = _file_of_one_writer(url)
    return nullcontext() if file is None else reserved(file)


def _file_of_one_writer(url: str) -> Path | None:
    """The file of SQLite, whose folder is made; None for a journal, a server or, by mistake, a folder."""
    file = file_of(url)
    if file is None or "://" not in url or file.is_dir():
        return None
    sqlite.make_folder(file.parent)
    return file


def _reached(url: str) -> BaseStorage:
    """Open the storage on a server; raises the driver's error if the server is away, so that the call is repeated."""
    try:
        return open_storage(url)
    except ConfigError as error:
        outage = error.__cause__
        if outage is None or not is_outage(outage):
            raise
    raise outage  # "from None" would remove its own cause, which says that it is an outage


def _open_database(url: str, engine_kwargs: dict[str, Any]) -> optuna.storages.RDBStorage:
    """Open Optuna's storage; tries again if another process creates the tables at the same time."""
    import sqlalchemy.exc

    for _ in range(OPENING_TRIES - 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=engine_kwargs)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.OperationalError) as error:
            if not any(words in str(error.orig) for words in ("already exists", "UNIQUE constraint", "duplicate key")):
                raise
            time.sleep(OPENING_PAUSE)
    return optuna.storages.RDBStorage(url, engine_kwargs=engine_kwargs)


def _engine_kwargs(parsed: Any) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's engine: the timeouts, as each driver calls them."""
    backend, driver = parsed.get_backend_name(), parsed.get_driver_name()
    if backend == "sqlite":
        # One connection is used as long as one is enough: SQLite tells each of them what the others have written.
        return {"connect_args": {"timeout": sqlite.BUSY_TIMEOUT, "factory": sqlite.Connection}, "pool_use_lifo": True}
    arguments: dict[str, Any] = {}
    if driver in ("psycopg2", "psycopg", "pymysql", "mysqldb"):
        arguments["connect_timeout"] = CONNECT_TIMEOUT
    elif driver == "pg8000":
        arguments["timeout"] = CONNECT_TIMEOUT
    if driver in ("pymysql", "mysqldb"):  # the connect timeout does not cover the server's greeting
        arguments["read_timeout"] = sqlite.BUSY_TIMEOUT
    if driver in ("psycopg2", "psycopg"):
        limits = {"statement_timeout": sqlite.BUSY_TIMEOUT, "idle_in_transaction_session_timeout": IDLE_TIMEOUT}
        arguments["options"] = " ".join(f"-c {name}={seconds * 1000}" for name, seconds in limits.items())
        # A connection whose other end has vanished is noticed within a minute, not after the system's two hours.
        arguments |= {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
    return {"pool_pre_ping": True, "connect_args": arguments}


def _driver(url: str) -> str:
    """Return how to install the missing driver; for PostgreSQL it depends on the version of SQLAlchemy."""
    import sqlalchemy

    scheme = url.split("://")[0]
    if scheme == "postgres":
        return "write postgresql://"
    try:
        driver = sqlalchemy.engine.make_url(url).get_driver_name()
    except sqlalchemy.exc.NoSuchModuleError:
        return f"none is known for {scheme!r}"
    return f"pip install '{_PACKAGES.get(driver, driver)}'"
