"""Signals that end a study: the first one in good order, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: The signals with which a user or the system ends a program.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class SignalCatcher:
    """Catches :data:`SIGNALS` inside a ``with`` block. Does nothing outside the main thread, as Python requires.

    Args:
        on_first: Called on the first signal.
        on_second: Called on the second one, before the process exits with 128 + the number of the signal.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first, self._on_second = on_first, on_second
        self._previous: dict[int, Any] = {}
        #: The number of the first signal that was caught.
        self.received: int | None = None

    def __enter__(self) -> SignalCatcher:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if not _ignored_hangup(number):
                    self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._on_second()
            os._exit(128 + number)
        self.received = number
        self._on_first()


def _ignored_hangup(number: int) -> bool:
    """Whether the signal is a SIGHUP that nohup has disabled, so that the study outlives its terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN
