"""Slots: child processes of one thread each that only train, reused from trial to trial.

The owner starts them, hands them trials, hears their reports from one queue and sees at once when one has
died. A child is a fresh interpreter (never a fork of a process with threads), does not import the script
that defined the study, and is told everything it needs as plain data.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from dropopt.study.run.machine import VISIBLE
from dropopt.study.run.messages import Message

#: Lines of a child's standard error that are kept to tell why it died.
LAST_WORDS = 20

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: glibc may give what a step frees back to the kernel, and then fetch it page by page in the next one: by the luck of
#: what lies where, a tenth of a step. What is kept instead is no more than the process's own peak.
KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Targets:
    """What a child runs, as ``module:function``, each given a configuration.

    One loads its data and checks that it can be trained on them, the other trains it.
    """

    load: str = "dropopt.training:prepare"
    train: str = "dropopt.training:train_run"


@dataclass(frozen=True)
class Event:
    """A message of a slot; without a message, its process has ended. Without a slot, just a wake-up call."""

    slot: Slot | None
    message: Message | None


class Slot:
    """One child process. When it ends, the slot is spent; :class:`Pool` puts a new one in its place."""

    def __init__(self, index: int, events: queue.SimpleQueue[Event], targets: Targets, card: str | None) -> None:
        self.index = index
        self.ready = False
        self.trial: int | None = None
        self._events = events
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dropopt.study.run.trainer", targets.load, targets.train],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(card),
            start_new_session=True,  # Ctrl-C and a closing terminal reach the owner alone
        )
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._heeding = threading.Thread(target=self._heed, daemon=True)
        self._hearing.start()
        self._heeding.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, **message: Any) -> None:
        """Tell the child something; if it is dead, its end is about to be reported anyway."""
        with contextlib.suppress(BrokenPipeError):
            stream = _open(self._process.stdin)
            stream.write(json.dumps(message) + "\n")
            stream.flush()

    def kill(self) -> None:
        """End the child now; it holds nothing that is worth a goodbye. Again is fine."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # with whatever it has started itself
        except (AttributeError, ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        self._hearing.join(timeout=1)
        self._heeding.join(timeout=1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):
                _open(stream).close()

    def obituary(self) -> str:
        """How the child ended: its signal or exit code, and the last line it wrote."""
        code = self._process.wait()
        self._heeding.join(timeout=1)
        if code == -signal.SIGKILL:
            return "its process was killed (signal 9; the kernel does that when memory runs out)"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        last = f": {self._words[-1]}" if self._words else ""
        return f"its process ended {how}{last}"

    def _hear(self) -> None:
        for line in _open(self._process.stdout):
            self._events.put(Event(self, json.loads(line)))
        self._events.put(Event(self, None))

    def _heed(self) -> None:
        for line in _open(self._process.stderr):
            if line.strip():
                self._words.append(line.strip())


class Pool:
    """So many slots, which share ``cards`` evenly, and the queue that all of them report to."""

    def __init__(self, size: int, targets: Targets, cards: Sequence[str] = ()) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._targets = targets
        self._cards = cards
        # All at once: importing torch takes a child two seconds.
        self.slots = [self._slot(index) for index in range(size)]

    def _slot(self, index: int) -> Slot:
        card = self._cards[index % len(self._cards)] if self._cards else None
        return Slot(index, self._events, self._targets, card)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait(self, timeout: float) -> Event | None:
        """The next event, or None when nothing happens for ``timeout`` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """End a running :meth:`wait`; safe in a signal handler."""
        self._events.put(Event(None, None))

    def replace(self, slot: Slot) -> Slot:
        """A new child in the place of one that died."""
        slot.kill()
        new = self._slot(slot.index)
        self.slots[slot.index] = new
        return new

    def kill(self) -> None:
        """End all children. Again is fine."""
        for slot in self.slots:
            slot.kill()


def _environment(card: str | None) -> dict[str, str]:
    """One thread for each library, memory that is kept, the owner's import path, and its own card to see."""
    paths = [os.path.abspath(path) for path in sys.path]
    ours = dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(paths)}
    if card is not None:
        ours[VISIBLE] = card
    return {"GLIBC_TUNABLES": KEEP_MEMORY} | os.environ | ours


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("a slot's pipes are always made with it")
    return stream
