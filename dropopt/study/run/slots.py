"""Slots: child processes of one thread each, which train one trial after the other.

The owner starts the children, sends them trials, and receives the messages of all of them through one queue, which
also reports the death of a child at once. A child is a new interpreter, never a fork of a process that has threads. It
does not import the script that defines the study: everything it needs is sent as plain data.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from dropopt.owncode import for_children
from dropopt.study.run.executor import Died, Event
from dropopt.study.run.machine import VISIBLE
from dropopt.study.run.messages import ToTrainer, decode_from_trainer, encode

#: Lines of a child's standard error that are kept; the last one is shown when the child dies.
STDERR_LINES = 20

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: Settings of glibc's allocator: keep freed memory. By default it may return the memory of each training step to the
#: kernel and fetch it again page by page in the next step, which can cost a tenth of the step. The process keeps no
#: more than its own peak.
KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Targets:
    """The functions that a child calls, as ``module:function``; both take a :class:`~dropopt.config.RunConfig`."""

    #: Loads the data and checks that the network can be trained on them.
    load: str = "dropopt.training:prepare"
    #: Trains; also takes a function that it calls after each epoch.
    train: str = "dropopt.training:train_run"


class Slot:
    """One child process.

    Args:
        targets: The functions that the child calls.
        card: The GPUs that the child sees, as a value of ``CUDA_VISIBLE_DEVICES``; None leaves the variable alone.
        receive: Called from another thread with each line that the child writes, and with None when it has ended.
    """

    def __init__(self, targets: Targets, card: str | None, receive: Callable[[Slot, str | None], None]) -> None:
        self._receive = receive
        self._stderr_lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dropopt.study.run.trainer", targets.load, targets.train],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(card),
            start_new_session=True,  # Ctrl-C and a closing terminal reach only the owner
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def send(self, message: ToTrainer) -> None:
        """Send a message to the child; does nothing if it is dead, because its end is reported anyway."""
        with contextlib.suppress(BrokenPipeError):
            stream = _opened(self._process.stdin)
            stream.write(encode(message))
            stream.flush()

    def kill(self) -> None:
        """End the child at once; it holds nothing that must be saved. Safe to call more than once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # includes the processes that the child has started
        except (AttributeError, ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):
                _opened(stream).close()

    def how_it_ended(self) -> str:
        """Wait for the child to end; returns its signal or exit code, and the last line of its standard error."""
        code = self._process.wait()
        self._readers[1].join(timeout=1)
        if code == -signal.SIGKILL:
            return "its process was killed (signal 9; the kernel does that when memory runs out)"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        last = f": {self._stderr_lines[-1]}" if self._stderr_lines else ""
        return f"its process ended {how}{last}"

    def _read_stdout(self) -> None:
        for line in _opened(self._process.stdout):
            self._receive(self, line)
        self._receive(self, None)

    def _read_stderr(self) -> None:
        for line in _opened(self._process.stderr):
            if line.strip():
                self._stderr_lines.append(line.strip())


class Pool:
    """An :class:`~dropopt.study.run.executor.Executor` whose trainers are child processes of this machine.

    Args:
        size: The number of slots.
        targets: The functions that the children call.
        cards: The GPUs, which the slots share evenly, each as a value of ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, size: int, targets: Targets, cards: Sequence[str] = ()) -> None:
        # Each entry: a slot and a line of its output, None for its end; None alone is a wake-up call.
        self._events: queue.SimpleQueue[tuple[Slot, str | None] | None] = queue.SimpleQueue()
        self._targets = targets
        self._cards = cards
        # All children start at the same time, because importing torch takes each of them two seconds.
        self._slots = [self._start(index) for index in range(size)]

    def _start(self, index: int) -> Slot:
        card = self._cards[index % len(self._cards)] if self._cards else None
        return Slot(self._targets, card, lambda slot, line: self._events.put((slot, line)))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def size(self) -> int:
        """The number of slots."""
        return len(self._slots)

    def send(self, slot: int, message: ToTrainer) -> None:
        """Send a message to the child in ``slot``."""
        self._slots[slot].send(message)

    def wait(self, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one, or after :meth:`wake`.

        Raises:
            MessageError: A child has written a line that is not a valid message.
        """
        try:
            found = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if found is None or found[0] not in self._slots:
            return None  # a wake-up call, or the rest of the output of a child that has been replaced
        slot, line = found
        return Event(self._slots.index(slot), Died(slot.how_it_ended()) if line is None else decode_from_trainer(line))

    def wake(self) -> None:
        """End a running :meth:`wait`. Safe in a signal handler."""
        self._events.put(None)

    def replace(self, slot: int) -> None:
        """Start a new child in ``slot``."""
        self._slots[slot].kill()
        self._slots[slot] = self._start(slot)

    def kill(self) -> None:
        """End all children at once. Safe to call more than once."""
        for slot in self._slots:
            slot.kill()


def _environment(card: str | None) -> dict[str, str]:
    """Return a child's environment: one thread per library, freed memory kept, the user's code, and its GPUs."""
    ours = dict.fromkeys(_ONE_THREAD, "1") | for_children()
    if card is not None:
        ours[VISIBLE] = card
    inherited = {name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE"}  # has a password
    return {"GLIBC_TUNABLES": KEEP_MEMORY} | inherited | ours


def _opened(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("the pipes of a slot exist as long as the slot")
    return stream
