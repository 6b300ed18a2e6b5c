"""Opening storages: a SQLite file by default, any URL that Optuna knows, one clear line when it fails.

On SQLite the write-ahead log keeps readers (the dashboard) and the one writer out of each other's way and
makes a report cost a millisecond. Passwords never leave this module: what is shown is :func:`redact`-ed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

DEFAULT_FILE = Path("runs") / "dropopt.db"
#: Optuna's own variable for a storage; an option on the command line goes before it.
VARIABLE = "OPTUNA_STORAGE"

#: Seconds to wait for another writer of a SQLite file.
BUSY_TIMEOUT = 60
#: Seconds to wait for a database server to answer.
CONNECT_TIMEOUT = 5

#: How often, and how many seconds apart, a database is opened that another process is just making.
OPENING_TRIES = 4
OPENING_PAUSE = 0.5

_SQLITE_HEADER = b"SQLite format 3\x00"
_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


#: SQLite files that this process has seen, by device and inode. Closing any descriptor of a file drops all locks that
#: the process holds on it, those of its SQLite connections too: so a file is read once, before it is connected to.
_KNOWN: set[tuple[int, int]] = set()

#: Packages that bring a driver, where their name is another.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}


class StorageError(RuntimeError):
    """A storage that was open stopped working; the message says which, and why."""


def resolve(option: str | None) -> str:
    """The storage's URL or journal file: the option, else ``OPTUNA_STORAGE``, else ``runs/dropopt.db``."""
    given = option or os.environ.get(VARIABLE) or DEFAULT_FILE.as_posix()
    if "://" in given:
        return given
    if slip := re.match(r"([a-z][\w+]+)(:/?|//)[^/]*@", given):  # not shown: it may hold a password
        raise ConfigError(f"the storage is neither a file nor a URL; a URL begins with {slip[1]}://")
    path = Path(given).expanduser()
    if path.suffix in _SQLITE_SUFFIXES or _has_header(path):
        return f"sqlite:///{path.as_posix()}"
    return str(path)


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open the storage at ``url`` (from :func:`resolve`); a :class:`ConfigError` says why it cannot be.

    Without ``create``, a file that does not exist is an error: reading never leaves an empty file behind.
    """
    if url.startswith("redis"):
        return _open_redis(url)
    if "://" not in url:
        return _open_journal(Path(url), create)
    import optuna
    import sqlalchemy.exc

    try:
        parsed = sqlalchemy.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ConfigError(f"storage {url} would be lost with this process; give a file, sqlite:///FILE.db")
            _prepare_sqlite(Path(str(parsed.database)), create)
        backend = _open_database(url, _engine_kwargs(parsed))
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


def redact(url: str) -> str:
    """``url`` with its password and query hidden; where it is not clear what these are, only its scheme is shown."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.startswith("sqlite"):
        return url
    address, _, query = rest.partition("?")
    login, at, place = address.rpartition("@")
    if "@" in query or not re.fullmatch(r"[\w+]+", scheme) or not re.fullmatch(r"[^/:]*(:\d+)?(/.*)?", place):
        return "".join(scheme.split()[:1]) + "://..."
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{place}"


def reason(error: BaseException, url: str = "") -> str:
    """The first line of the driver's own complaint, without SQL text and without the password."""
    original = getattr(error, "orig", None) or error.__cause__ or error
    original = getattr(original, "orig", None) or original
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    text = lines[0] if lines else type(original).__name__
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


def is_storage_error(error: BaseException) -> bool:
    """Whether ``error`` comes from the storage rather than from us; imports nothing."""
    optuna, sqlalchemy = sys.modules.get("optuna"), sys.modules.get("sqlalchemy")
    kinds: tuple[type[BaseException], ...] = (StorageError, sqlite3.Error)
    if optuna is not None:
        kinds += (optuna.exceptions.StorageInternalError,)
    if sqlalchemy is not None:
        kinds += (sqlalchemy.exc.SQLAlchemyError,)
    return isinstance(error, kinds)


def close(storage: BaseStorage) -> None:
    """Give back the connections; SQLite folds its write-ahead log into the file."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


class Opened:
    """A storage for a ``with closing(...)`` block."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.storage = open_storage(url, create=create)

    def close(self) -> None:
        """Give back the connections."""
        close(self.storage)


class _Connection(sqlite3.Connection):
    """A SQLite connection that does not wait for the disk at every report.

    With the write-ahead log, ``synchronous=NORMAL`` keeps the file whole after a crash of the process or
    the machine; a power cut can lose the last moments, which are then trained again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


def _prepare_sqlite(path: Path, create: bool) -> None:
    """Check the file, or make it, and switch it to the write-ahead log (which the file remembers)."""
    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        _make_folder(path.parent)
    elif path.is_dir() or (path.stat().st_size and not _has_header(path)):
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
        _KNOWN.add(_identity(path))
    except sqlite3.Error as error:
        raise ConfigError(f"storage {path} cannot be used: {error}") from None


def _is_complete(connection: sqlite3.Connection) -> bool:
    """Whether Optuna's tables are all there: one who only reads must not finish what another is making."""
    stamped = "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
    if connection.execute(stamped).fetchone() is None:
        return False
    return connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None


def _open_database(url: str, engine_kwargs: dict[str, Any]) -> optuna.storages.RDBStorage:
    """Optuna's storage; tried again where another process was making the tables at the same moment."""
    import optuna
    import sqlalchemy.exc

    for _ in range(OPENING_TRIES - 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=engine_kwargs)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.OperationalError) as error:
            if not any(words in str(error.orig) for words in ("already exists", "UNIQUE constraint", "duplicate key")):
                raise
            time.sleep(OPENING_PAUSE)
    return optuna.storages.RDBStorage(url, engine_kwargs=engine_kwargs)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {folder} is not writable; give another --storage")


def _engine_kwargs(parsed: Any) -> dict[str, Any]:
    backend, driver = parsed.get_backend_name(), parsed.get_driver_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT, "factory": _Connection}}
    arguments: dict[str, Any] = {}
    if driver in ("psycopg2", "psycopg", "pymysql", "mysqldb"):
        arguments["connect_timeout"] = CONNECT_TIMEOUT
    elif driver == "pg8000":
        arguments["timeout"] = CONNECT_TIMEOUT
    if driver in ("pymysql", "mysqldb"):  # its connect timeout ends before the server's greeting
        arguments["read_timeout"] = BUSY_TIMEOUT
    if driver in ("psycopg2", "psycopg"):
        arguments["options"] = f"-c statement_timeout={BUSY_TIMEOUT * 1000}"
    return {"pool_pre_ping": True, "connect_args": arguments}


def _open_journal(path: Path, create: bool) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        _make_folder(path.parent)
    elif not path.is_file():
        raise ConfigError(f"storage {path} is not a file; give a URL, a SQLite or a journal file")
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise ConfigError(f"storage {path} cannot be opened: {error.strerror}") from None
    except (ValueError, KeyError) as error:  # a line that is not a journal's
        raise ConfigError(f"storage {path} is not a journal file: {error}") from None


def _open_redis(url: str) -> BaseStorage:
    import optuna

    try:
        with warnings.catch_warnings():
            # Redis journals have been experimental since Optuna 3.1.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(url))
    except ImportError as error:
        raise ConfigError(f"storage {redact(url)} needs a driver: pip install redis") from error
    except Exception as error:  # the driver's own classes, which may not be installed
        raise ConfigError(f"storage {redact(url)} cannot be opened: {reason(error, url)}") from error


def _driver(url: str) -> str:
    """How to get the driver that is missing: SQLAlchemy 2.1 takes another one for PostgreSQL than 2.0."""
    import sqlalchemy

    scheme = url.split("://")[0]
    if scheme == "postgres":
        return "write postgresql://"
    try:
        driver = sqlalchemy.engine.make_url(url).get_driver_name()
    except sqlalchemy.exc.NoSuchModuleError:
        return f"none is known for {scheme!r}"
    return f"pip install '{_PACKAGES.get(driver, driver)}'"


def _secrets(url: str) -> list[str]:
    """What must never be shown, longest first."""
    if "://" not in url:
        return []
    import sqlalchemy

    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return []
    found = {str(parsed.password or ""), *(str(value) for value in parsed.query.values())}
    return sorted((secret for secret in found if secret), key=len, reverse=True)


def _has_header(path: Path) -> bool:
    try:
        if _identity(path) in _KNOWN:
            return True
        with path.open("rb") as file:
            found = file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    except OSError:
        return False
    if found:
        _KNOWN.add(_identity(path))
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
