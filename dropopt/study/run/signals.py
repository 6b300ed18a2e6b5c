"""Signals that end a study: the first one gracefully, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dropopt.interrupt import end_quietly


def _known(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of these names that the platform has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


#: The signals with which the scheduler of a cluster warns a program that its time is almost over. The kernel repeats
#: SIGXCPU after each further second of CPU time.
WARNINGS = _known("SIGUSR1", "SIGXCPU")

#: The signals with which a user or the system ends a program.
SIGNALS = (*_known("SIGINT", "SIGTERM", "SIGHUP"), *WARNINGS)

#: Seconds to wait for a signal to this process after a signal has ended a child. A system that shuts down, a scheduler
#: or a container sends the signal to all processes.
SIGNAL_SECONDS = 1.0

#: Seconds after the second signal in which the running trials can still be recorded.
SETTLE_SECONDS = 2.0


class SignalCatcher:
    """Catches :data:`SIGNALS` inside a ``with`` block. Does nothing outside the main thread, as Python requires.

    A separate thread receives them through Python's wakeup descriptor. The second signal therefore ends the process
    even if the main thread is blocked, for example by a server that does not answer.
    """

    def __init__(self) -> None:
        self._on_first: Callable[[], None] = lambda: None
        self._on_second: Callable[[], None] = lambda: None
        self._previous: dict[int, Any] = {}
        self._arrived = threading.Event()
        self._settled = threading.Event()
        self._settled.set()
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._previous_descriptor = -1
        #: The number of the first signal that was caught.
        self.received: int | None = None

    def __enter__(self) -> SignalCatcher:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._ends = socket.socketpair()
        receiver, sender = self._ends
        sender.setblocking(False)
        threading.Thread(target=self._watch, args=(receiver,), daemon=True, name="signals").start()
        self._previous_descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if not _ignored_hangup(number) and not _taken(number):
                self._previous[number] = signal.getsignal(number)  # first, for the thread
                signal.signal(number, _handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ends is None:
            return
        for number, handler in self._previous.items():
            # After a signal the program is about to exit: a further one ends it without a traceback.
            ends = self.received is not None and handler in (signal.default_int_handler, end_quietly)
            signal.signal(number, signal.SIG_DFL if ends else handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._ends[1].close()  # ends the thread

    @contextlib.contextmanager
    def guarding(self, *, on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[None]:
        """Protect a block that must record something before the process ends.

        Both functions are called from another thread.

        Args:
            on_first: Called on the first signal.
            on_second: Called on the second one. The process then exits with 128 + the number of the signal, as soon as
                the block has ended or :data:`SETTLE_SECONDS` have passed.
        """
        self._on_first, self._on_second = on_first, on_second
        self._settled.clear()
        try:
            yield
        finally:
            self._settled.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the first signal; returns whether it has arrived."""
        return self._arrived.wait(seconds)

    def _watch(self, receiver: socket.socket) -> None:
        with receiver:
            while numbers := receiver.recv(64):
                for number in numbers:
                    if number in self._previous:
                        self._catch(number)

    def _catch(self, number: int) -> None:
        if self.received is not None and number in WARNINGS:
            return  # the study is ending already, and a warning leaves time for that
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        if self.received is not None:
            self._on_second()
            self._settled.wait(SETTLE_SECONDS)
            _show_cursor()
            os._exit(128 + number)
        self.received = number
        self._arrived.set()
        self._on_first()


def _handle(number: int, frame: FrameType | None) -> None:
    """Keep the signal from ending the process. The thread of :class:`SignalCatcher` receives it."""


def _ignored_hangup(number: int) -> bool:
    """Whether the signal is a SIGHUP that nohup has disabled, so that the study outlives its terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


def _taken(number: int) -> bool:
    """Whether the program has a handler of its own for a warning, such as one that requeues the job."""
    return number in WARNINGS and signal.getsignal(number) != signal.SIG_DFL


def _leave_terminal() -> None:
    """Redirect output to the null device: writing to a terminal that has been closed raises an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _show_cursor() -> None:
    """Show the cursor again, which the live table hides."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
