"""Journal storages of Optuna: append-only files, and Redis servers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dropopt.config import ConfigError
from dropopt.study.store.sqlite import make_folder
from dropopt.study.store.url import VARIABLE, reason, redact

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_journal(path: Path, create: bool) -> BaseStorage:
    """Open the journal file at ``path``; without ``create``, a missing file is an error."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not path.exists():
        if not create:
            raise ConfigError(f"no storage at {path}; run a study first, or give --storage or {VARIABLE}")
        make_folder(path.parent)
    elif not path.is_file():
        raise ConfigError(f"storage {path} is not a file; give a URL, a SQLite or a journal file")
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise ConfigError(f"storage {path} cannot be opened: {error.strerror}") from None
    except (ValueError, KeyError) as error:  # a line that is not part of a journal
        raise ConfigError(f"storage {path} is not a journal file: {error}") from None


def open_redis(url: str) -> BaseStorage:
    """Open a journal on the Redis server at ``url``."""
    import optuna

    try:
        with warnings.catch_warnings():
            # Redis journals have been experimental since Optuna 3.1.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(url))
    except ImportError as error:
        raise ConfigError(f"storage {redact(url)} needs a driver: pip install redis") from error
    except Exception as error:  # of the driver, whose classes may not be installed
        raise ConfigError(f"storage {redact(url)} cannot be opened: {reason(error, url)}") from error
