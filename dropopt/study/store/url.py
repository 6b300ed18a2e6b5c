"""Naming a storage: from an option or the environment to a URL, and never a password in what is shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dropopt.config import ConfigError

if TYPE_CHECKING:
    pass


DEFAULT_FILE = Path("runs") / "dropopt.db"

#: Optuna's own variable for a storage; an option on the command line goes before it.
VARIABLE = "OPTUNA_STORAGE"

_SQLITE_HEADER = b"SQLite format 3\x00"

_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")

#: SQLite files that this process has seen, by device and inode. Closing any descriptor of a file drops all locks that
#: the process holds on it, those of its SQLite connections too: so a file is read once, before it is connected to.
KNOWN_SQLITE_FILES: set[tuple[int, int]] = set()


def resolve(option: str | None) -> str:
    """The storage's URL or journal file: the option, else ``OPTUNA_STORAGE``, else ``runs/dropopt.db``."""
    given = option or os.environ.get(VARIABLE) or DEFAULT_FILE.as_posix()
    if "://" in given:
        return given
    if slip := re.match(r"([a-z][\w+]+)(:/?|//)[^/]*@", given):  # not shown: it may hold a password
        raise ConfigError(f"the storage is neither a file nor a URL; a URL begins with {slip[1]}://")
    path = Path(given).expanduser()
    if path.suffix in _SQLITE_SUFFIXES or has_sqlite_header(path):
        return f"sqlite:///{path.as_posix()}"
    return str(path)


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


def has_sqlite_header(path: Path) -> bool:
    """Whether the file at ``path`` is an SQLite database."""
    try:
        if file_identity(path) in KNOWN_SQLITE_FILES:
            return True
        with path.open("rb") as file:
            found = file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    except OSError:
        return False
    if found:
        KNOWN_SQLITE_FILES.add(file_identity(path))
    return found


def file_identity(path: Path) -> tuple[int, int]:
    """Device and inode of the file at ``path``."""
    status = path.stat()
    return status.st_dev, status.st_ino
