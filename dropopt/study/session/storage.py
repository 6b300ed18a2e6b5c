"""The storage of a session, and the identity of the session's worker in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from optuna.storages import BaseStorage
from rich.console import Console

from dropopt.study.run.signals import SignalCatcher
from dropopt.study.show.console import say
from dropopt.study.store.lease import BEATS, WorkerIdentity
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import LONGEST_PAUSE, Patience


@contextmanager
def worker_storage(
    url: str, patience: float, grace: float, console: Console, signals: SignalCatcher, *, create: bool = False
) -> Iterator[tuple[BaseStorage, WorkerIdentity]]:
    """Open a storage for a new worker.

    Args:
        url: The storage.
        patience: Seconds that it may be unreachable; only a few after a signal.
        grace: Seconds without a heartbeat after which others may take over the trials of the worker.
        console: Where outages are reported.
        signals: The signals that stop the worker.
        create: Whether to create a file that does not exist.
    """
    patient = Patience(patience, lambda line: say(console, line, "yellow"), min(LONGEST_PAUSE, grace / BEATS))
    with closing(Opened(url, create=create, patience=patient)) as opened:
        patient.hurried = lambda: signals.received is not None
        yield opened.storage, WorkerIdentity(grace=grace, exclusive=opened.exclusive)
