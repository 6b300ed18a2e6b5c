"""Outages of a storage: failed calls are repeated until the storage answers again.

While a call is repeated, child processes continue to train, and their reports wait in the pipes. Calls to a database
server run in a separate thread, so that this process reacts to signals even if the server accepts the connection and
never answers.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dropopt.study.store.errors import StorageError
from dropopt.study.store.proxy import is_remote_error, is_remote_outage
from dropopt.study.store.url import reason

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Seconds that a storage may be unreachable before the study stops.
PATIENCE = 120.0
#: The same after a signal, so that Ctrl-C takes effect soon.
PATIENCE_AFTER_SIGNAL = 5.0
#: Seconds after which an outage is reported.
SAID_AFTER = 2.0
#: The first and the longest pause between two tries, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
#: Seconds between two checks whether a signal has arrived.
GLANCE = 0.1

#: Words of errors that do not go away by themselves, whatever class they have.
_PERMANENT = (
    "malformed",
    "not a database",
    "no such table",
    "no such column",
    "authentication failed",
    "does not exist",
    "permission denied",
)

_R = TypeVar("_R")


class Patience:
    """How long to wait for a storage, and how to report an outage.

    Args:
        seconds: How long a storage may be unreachable.
        say: Called with one line when an outage is noticed and when it is over.
        longest_pause: The longest pause between two tries, in seconds. It should be shorter than the grace period, so
            that workers renew their leases in time after an outage.
    """

    def __init__(
        self,
        seconds: float = PATIENCE,
        say: Callable[[str], None] = lambda line: None,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self.seconds = seconds
        self.say = say
        self._longest_pause = longest_pause
        #: The number of outages that have ended.
        self.outages = 0
        #: Whether a signal has asked this process to end.
        self.hurried: Callable[[], bool] = lambda: False

    def call(self, function: Callable[[], _R]) -> _R:
        """Call ``function``, and repeat it during an outage; raises :class:`StorageError` after the limit."""
        began, pause, said = time.monotonic(), FIRST_PAUSE, False
        while True:
            try:
                result = function()
            except Exception as error:
                if not is_outage(error):
                    raise
                away = time.monotonic() - began
                if away >= self.limit():
                    raise StorageError(
                        f"the storage has been unreachable for {away:.0f} s: {reason(error)}; the stored data "
                        "are intact: type the same command again when it is back"
                    ) from error
                if away >= SAID_AFTER and not said:
                    self.say(f"storage unreachable, retrying for {self.seconds:.0f} s: {reason(error)}")
                    said = True
                rest = pause * random.uniform(0.5, 1)
                self._sleep(rest if said else min(rest, SAID_AFTER - away))  # the next try is in time to report it
                pause = min(2 * pause, self._longest_pause)
            else:
                if pause > FIRST_PAUSE:
                    self.outages += 1
                if said:
                    self.say(f"storage reachable again after {time.monotonic() - began:.0f} s")
                return result

    def limit(self) -> float:
        """Return how many seconds a storage may now be unreachable."""
        return min(self.seconds, PATIENCE_AFTER_SIGNAL) if self.hurried() else self.seconds

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, GLANCE))


def is_outage(error: BaseException) -> bool:
    """Whether ``error`` may go away by itself: a server that is restarted, a disk that is full, a file that is busy."""
    import optuna
    import sqlalchemy.exc as sql

    original = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if isinstance(original, OSError):
        return not isinstance(original, FileNotFoundError)
    if any(word in str(original) for word in _PERMANENT):
        return False
    if is_remote_error(original):
        return is_remote_outage(original)
    passing = (sql.OperationalError, sql.InterfaceError, sql.InternalError, sql.TimeoutError, sqlite3.OperationalError)
    return isinstance(original, passing) or (isinstance(original, sql.DBAPIError) and original.connection_invalidated)


class Guard:
    """Calls functions with one storage, and repeats calls that fail because of an outage.

    Args:
        storage: The storage.
        patience: How long to wait.
        file: The file of the storage; None for a server.
    """

    def __init__(self, storage: BaseStorage, patience: Patience, file: Path | None) -> None:
        self._storage = storage
        self.patience = patience
        self._file = file
        self._identity = None if file is None else _identity(file)
        self._gone: StorageError | None = None
        self._caller = None if file is not None else _Caller(patience)

    def run(self, function: Callable[[BaseStorage], _R], *, may_miss: bool = False) -> _R:
        """Return the result of ``function``, which is called with the storage.

        Args:
            function: The function.
            may_miss: Whether what it asks for may not exist: a KeyError then does not mean that the study was deleted.

        Raises:
            StorageError: The storage stays unreachable, or the study or its file is gone. Every later call raises it
                too.
        """
        if self._gone is not None:
            raise self._gone
        try:
            return self.patience.call(lambda: self._once(function))
        except StorageError as error:
            self._gone = error
            raise
        except KeyError as error:
            if may_miss:
                raise
            self._gone = StorageError(
                "the study was deleted from the storage while it ran; its results cannot be stored"
            )
            raise self._gone from error

    def _once(self, function: Callable[[BaseStorage], _R]) -> _R:
        self._check_file()
        try:
            if self._caller is None:
                return function(self._storage)
            return self._caller.call(lambda: function(self._storage))
        except FileNotFoundError:  # perhaps removed since the check
            self._check_file()
            raise

    def _check_file(self) -> None:
        """Raise :class:`StorageError` if the file was removed or replaced.

        A journal would create a removed file again, and SQLite would write to the removed file.
        """
        if self._file is None:
            return
        try:
            found = _identity(self._file)
        except (FileNotFoundError, NotADirectoryError):
            raise StorageError(
                f"storage {self._file} was removed or moved while the study ran; if it was moved, move it back and "
                "type the same command again; otherwise its trials are lost"
            ) from None
        if found != self._identity:
            raise StorageError(
                f"storage {self._file} was replaced by another file while the study ran; start the study again"
            )


class _Caller:
    """Calls functions in a single separate thread: SQLAlchemy's sessions are bound to one thread."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def call(self, function: Callable[[], _R]) -> _R:
        """Return the result of ``function``; raises :class:`StorageError` if it takes too long."""
        answer: queue.SimpleQueue[tuple[_R, BaseException | None]] = queue.SimpleQueue()
        self._work.put((function, answer))
        began, said = time.monotonic(), False
        while True:
            with contextlib.suppress(queue.Empty):
                result, error = answer.get(timeout=GLANCE)
                if error is not None:
                    raise error
                if said:
                    self._patience.say(f"storage answers again after {time.monotonic() - began:.0f} s")
                return result
            away = time.monotonic() - began
            if away >= self._patience.limit():
                raise StorageError(
                    f"the storage has not answered for {away:.0f} s; the stored data are intact: type the same command "
                    "again when it is back"
                )
            if away >= SAID_AFTER and not said:
                self._patience.say(f"storage unreachable, waiting for {self._patience.seconds:.0f} s: no answer")
                said = True

    def _run(self) -> None:
        while True:
            function, answer = self._work.get()
            try:
                answer.put((function(), None))
            except BaseException as error:
                answer.put((None, error))


def _identity(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino
