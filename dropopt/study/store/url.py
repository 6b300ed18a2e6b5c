"""The URL of a storage: read from an option or the environment, and shown without its password."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dropopt.config import ConfigError

if TYPE_CHECKING:
    import sqlalchemy

DEFAULT_FILE = Path("runs") / "dropopt.db"

#: Optuna's environment variable for a storage; the command line's option has precedence.
VARIABLE = "OPTUNA_STORAGE"

#: What to do about SQLite's "disk I/O error", which it also reports when it cannot create its files.
_FULL = "the disk may be full or may have failed; free space on the disk of the storage and try again"

#: What a storage proxy writes before the error of its own storage.
_REMOTE = "Exception calling application: "

_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def resolve(option: str | None) -> str:
    """Return the URL or the journal file of a storage.

    Args:
        option: A URL or a path; None for the value of ``OPTUNA_STORAGE``, or ``runs/dropopt.db`` if that is not set.

    Raises:
        ConfigError: It looks like a URL with a mistake.
    """
    given = option or os.environ.get(VARIABLE) or DEFAULT_FILE.as_posix()
    if "://" in given:
        _check_password(given)
        if option and redact(given) != given:
            _warn_of_password()
        return given
    if slip := re.match(r"([a-z][\w+]+)(:/?|//)[^/]*@", given):  # not shown: it may hold a password
        raise ConfigError(f"the storage is neither a file nor a URL; a URL begins with {slip[1]}://")
    path = Path(given).expanduser()
    if path.suffix in _SQLITE_SUFFIXES or _is_sqlite(path):
        if "?" in given:  # SQLAlchemy 2.0 has no escape for it: the file would be the one whose name ends before it
            raise ConfigError(f"the name of a SQLite file cannot contain a question mark, got {given}")
        if "%" in given:  # SQLAlchemy 2.1 decodes the name of the file, 2.0 does not
            import sqlalchemy

            return sqlalchemy.engine.URL.create("sqlite", database=path.as_posix()).render_as_string()
        return f"sqlite:///{path.as_posix()}"
    return str(path)


def file_of(url: str) -> Path | None:
    """Return the file of a storage; None if the storage is a server or in memory."""
    if "://" not in url:
        return Path(url)
    parsed = _parsed(url) if url.startswith("sqlite") else None
    name = "" if parsed is None else parsed.database or ""
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def storage_hint(option: str | None) -> str:
    """Return the option ``--storage`` to type again, with a leading space; empty if it was not given.

    The variable ``OPTUNA_STORAGE`` replaces a URL with a password, or with a query that may hold one.
    """
    if option is None:
        return ""
    shown = redact(option) == option
    return f" --storage {shlex.quote(option)}" if shown else f' --storage "${VARIABLE}"'


def redact_all(text: str) -> str:
    """Return ``text`` with every URL in it redacted, including malformed ones."""

    def redacted(match: re.Match[str]) -> str:
        return redact(match[0]) if "://" in match[0] else f"{match[1]}:..."

    return re.sub(r"""([a-z][\w+]+):[^\s'"]*@[^\s'"]*""", redacted, text)


def redact(url: str) -> str:
    """Hide the password and the query of ``url``. Returns only its scheme if the rest cannot be parsed safely."""
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
    """Return the first line of the driver's error message, without SQL text and without the password."""
    original = getattr(error, "orig", None) or error.__cause__ or error
    original = getattr(original, "orig", None) or original
    details = getattr(original, "details", None)  # an error of gRPC
    described = str(details() if callable(details) else original).removeprefix(_REMOTE)
    lines = [line.strip() for line in described.splitlines() if line.strip()]
    text = lines[0] if lines else type(original).__name__
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return f"{text}: {_FULL}" if text == "disk I/O error" else text


def _check_password(url: str) -> None:
    """Raise :class:`ConfigError` for a password with a character that must be escaped: the rest would be the host."""
    scheme, _, rest = url.partition("://")
    if scheme.startswith("sqlite"):
        return
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    no_port = re.fullmatch(r"[^:]*(:\d+)?|\[.*\](:\d+)?", authority) is None
    if authority.count("@") > 1 or "@" in path or ("@" not in authority and "@" in query and no_port):
        raise ConfigError(
            f"the user name or password in the storage's URL ({redact(url)}) has a character that must be escaped: "
            "write %40 for @, %3A for :, %2F for /, %3F for ? and %23 for #"
        )


@cache
def _warn_of_password() -> None:
    """Warn once that other users of the machine can read the arguments of a process."""
    print(
        f"dropopt: other users of this machine can see the URL in the list of processes; to hide its password, set the "
        f"variable {VARIABLE} to the URL instead of giving --storage",
        file=sys.stderr,
    )


def _secrets(url: str) -> list[str]:
    """Return the parts of ``url`` that must not be shown, longest first."""
    parsed = _parsed(url)
    if parsed is None:
        return []
    found = {str(parsed.password or ""), *(str(value) for value in parsed.query.values())}
    found |= {quote(secret, safe="") for secret in found}  # as it is written in a URL
    return sorted((secret for secret in found if secret), key=len, reverse=True)


def _parsed(url: str) -> sqlalchemy.engine.URL | None:
    """Return the parts of ``url``; None if it is not a URL."""
    import sqlalchemy

    try:
        return sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None


def _is_sqlite(path: Path) -> bool:
    """Whether the file at ``path`` is an SQLite database.

    SQLite itself reads the file. A plain ``open`` and ``close`` would release the POSIX locks of all connections that
    this process has to the same file, and other processes could then damage it. ``immutable`` makes SQLite read
    without locks of its own, and without the write-ahead log.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN)
    except OSError:
        return False
    return True
