"""Slots: child processes that train trials one after another, each with one compute thread.

The owner starts the children, sends them trials, and receives the messages of all of them through one queue. The queue
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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from dropopt.owncode import for_children
from dropopt.study.run import memory
from dropopt.study.run.machine import VISIBLE
from dropopt.study.run.messages import FromTrainer, MessageError, ToTrainer, decode_from_trainer, encode
from dropopt.study.store import url

#: Bytes of a child's standard error that are kept, from its end; the last line is shown when the child dies.
STDERR_BYTES = 8192
#: Characters of that line.
STDERR_CHARACTERS = 500
#: The longest message from a child, in bytes.
MESSAGE_BYTES = 1_000_000
#: Seconds between two measurements of a child's memory.
MEMORY_INTERVAL = 0.1
#: Seconds to wait for the end of a child that was killed; a process that waits for a device does not end at once.
KILL_SECONDS = 5
#: Seconds to wait for the last output of a child that has ended; a process that it started may hold the pipe.
OUTPUT_SECONDS = 1

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: Settings of glibc's allocator: keep freed memory. By default it may return the memory of each training step to the
#: kernel and fetch it again page by page in the next step, which can take a tenth of the time of the step. The process
#: never keeps more than its own peak.
KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Targets:
    """The functions that a child calls, as ``module:function``; both take a :class:`~dropopt.config.RunConfig`."""

    #: Loads the data and checks that the network can be trained on them.
    load: str = "dropopt.training:prepare"
    #: Trains; also takes a function that it calls after each epoch, and a checkpoint: see
    #: :func:`dropopt.training.train_run`.
    train: str = "dropopt.training:train_run"


@dataclass(frozen=True)
class Died:
    """The trainer of a slot has ended; the slot must be replaced before it can be used again."""

    #: How it ended, such as ``its process ended with exit code 1: Bus error``.
    reason: str
    #: Whether it ended because memory ran out.
    out_of_memory: bool = False
    #: The number of the signal that ended it; 0 if it ended otherwise.
    signal: int = 0
    #: Whether its whole machine was lost, so that neither the trial nor the data can be the cause.
    lost_machine: bool = False


@dataclass(frozen=True)
class Event:
    """What happened in a slot."""

    slot: int
    content: FromTrainer | Died


class Child(Protocol):
    """A process that trains, on this machine or on another one."""

    def send(self, message: ToTrainer) -> None:
        """Send a message to the process; does nothing if it is dead, because its end is reported anyway."""

    def kill(self) -> None:
        """Kill the process, without waiting. Safe to repeat, and in any thread."""

    def close(self) -> None:
        """Wait for the end of a process that was killed."""


class Slot:
    """One child process of this machine.

    Args:
        targets: The functions that the child calls.
        card: The GPUs that the child sees, as a value of ``CUDA_VISIBLE_DEVICES``; None leaves the variable unchanged.
        memory_limit: Bytes of memory at which the child is killed; None for no limit.
        receive: Called from other threads with each line that the child writes, and finally with a :class:`Died`.
        threads: The number of compute threads of the child.
    """

    def __init__(
        self,
        targets: Targets,
        card: str | None,
        memory_limit: int | None,
        receive: Callable[[Slot, bytes | Died], None],
        threads: int = 1,
    ) -> None:
        self._receive = receive
        self._memory_limit = memory_limit
        self._verdict: Died | None = None  # the reason, if :meth:`_end` killed the child
        self._stderr = bytearray()
        self._kernel_kills = memory.kernel_kills()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dropopt.study.run.trainer", targets.load, targets.train],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(card, threads),
            start_new_session=True,  # Ctrl-C and a closing terminal reach only the owner
        )
        self._readers = [_start(self._read_messages), _start(self._read_stderr)]
        self._watcher = _start(self._watch)

    def send(self, message: ToTrainer) -> None:
        """Send a message to the child; does nothing if it is dead, because its end is reported anyway."""
        with contextlib.suppress(BrokenPipeError):
            stream = _opened(self._process.stdin)
            stream.write(encode(message).encode())
            stream.flush()

    def kill(self) -> None:
        """Kill the child and the processes that it has started, without waiting. Safe to repeat, and in any thread."""
        if self._process.returncode is not None:
            return  # the process id may already belong to another process
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):
            self._process.kill()

    def close(self) -> None:
        """Wait for the end of a child that was killed."""
        self._watcher.join(timeout=KILL_SECONDS)
        for reader in self._readers:
            reader.join(timeout=OUTPUT_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            _opened(self._process.stdin).close()

    def _end(self, verdict: Died) -> None:
        self._verdict = self._verdict or verdict
        self.kill()

    def _watch(self) -> None:
        """Wait for the child's end and report it. The pipes stay open while another process holds them."""
        self._wait()
        self.kill()  # kills what the child has started: its process group exists until the child is reaped
        for reader in self._readers:
            reader.join(timeout=OUTPUT_SECONDS)
        self._receive(self, self._how_it_ended(self._process.wait()))

    def _wait(self) -> None:
        """Wait for the child's end without reaping it; kill it if it uses too much memory."""
        if not hasattr(os, "waitid"):  # macOS and Windows
            self._process.wait()
            return
        options = os.WEXITED | os.WNOWAIT | (0 if self._memory_limit is None else os.WNOHANG)
        while os.waitid(os.P_PID, self._process.pid, options) is None:
            if self._memory_limit is not None and memory.used(self._process.pid) > self._memory_limit:
                limit = self._memory_limit // memory.MEGABYTE
                self._end(Died(f"its process used more than {limit} MB of memory", out_of_memory=True))
            time.sleep(MEMORY_INTERVAL)

    def _how_it_ended(self, code: int) -> Died:
        if self._verdict is not None:
            return self._verdict
        last = bytes(self._stderr).decode(errors="replace").strip().rpartition("\n")[2].strip()[:STDERR_CHARACTERS]
        if code != -signal.SIGKILL:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            return Died(f"its process ended {how}" + (f": {last}" if last else ""), signal=-min(code, 0))
        kills = memory.kernel_kills()
        if kills is None or self._kernel_kills is None:
            return Died("its process was killed (signal 9), probably out of memory", signal=signal.SIGKILL)
        if kills > self._kernel_kills:
            return Died("the kernel killed its process (signal 9), because memory ran out", out_of_memory=True)
        return Died("its process was killed (signal 9)", signal=signal.SIGKILL)

    def _read_messages(self) -> None:
        with _opened(self._process.stdout) as stream:
            while (line := stream.readline(MESSAGE_BYTES)).endswith(b"\n"):
                self._receive(self, line)
        if len(line) >= MESSAGE_BYTES:  # a shorter line without a newline was cut off by the child's death
            self._end(Died(f"its process sent a message of more than {MESSAGE_BYTES} bytes"))

    def _read_stderr(self) -> None:
        """Keep the end of the child's standard error, which may be long and without line breaks."""
        with _opened(self._process.stderr) as stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._stderr += chunk
                del self._stderr[:-STDERR_BYTES]


class Pool:
    """A fixed number of slots, each with a child process that runs one trial at a time.

    A slot is identified by its index, from 0 to ``size`` - 1. The children run on this machine;
    :class:`~dropopt.study.run.ray_slots.RayPool` runs them on the nodes of a Ray cluster.

    Args:
        size: The number of slots.
        targets: The functions that the children call.
        cards: The GPUs, which the slots share evenly, each as a value of ``CUDA_VISIBLE_DEVICES``.
        memory_limit: Bytes of memory at which a child is killed; None for no limit.
    """

    def __init__(self, size: int, targets: Targets, cards: Sequence[str] = (), memory_limit: int | None = None) -> None:
        # Each entry is a slot with a line of its output or with its end. None ends a running wait.
        self._events: queue.SimpleQueue[tuple[Child, bytes | Died] | None] = queue.SimpleQueue()
        self._targets = targets
        self._cards = cards
        self._memory_limit = memory_limit
        # All children start at the same time, because importing torch takes each of them two seconds.
        self._slots = [self._start(index) for index in range(size)]

    def _start(self, index: int) -> Child:
        card = self._cards[index % len(self._cards)] if self._cards else None
        return Slot(self._targets, card, self._memory_limit, self._receive)

    def _receive(self, child: Child, found: bytes | Died) -> None:
        self._events.put((child, found))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for slot in self._slots:
            slot.close()

    @property
    def size(self) -> int:
        """The number of slots."""
        return len(self._slots)

    def send(self, slot: int, message: ToTrainer) -> None:
        """Send a message to the child in ``slot``. Does not raise if it is dead: :meth:`wait` reports its death."""
        self._slots[slot].send(message)

    def wait(self, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one, or after :meth:`wake`."""
        try:
            found = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if found is None or found[0] not in self._slots:
            return None  # from wake(), or the rest of the output of a child that has been replaced
        slot, content = found
        index = self._slots.index(slot)
        if isinstance(content, Died):
            return Event(index, content)
        try:
            return Event(index, decode_from_trainer(content.decode()))
        except (MessageError, UnicodeDecodeError) as error:
            slot.kill()
            return Event(index, Died(f"its process sent a message that cannot be read: {error}"))

    def wake(self) -> None:
        """End a running :meth:`wait`. Safe in any thread."""
        self._events.put(None)

    def replace(self, slot: int) -> None:
        """End the child in ``slot`` and start a new one. No further event of the old one is reported."""
        self._slots[slot].kill()
        self._slots[slot].close()
        self._slots[slot] = self._start(slot)

    def kill(self) -> None:
        """End all children at once, without waiting. Safe to call more than once, and in any thread."""
        for slot in self._slots:
            slot.kill()


def _environment(card: str | None, threads: int = 1) -> dict[str, str]:
    """Return a child's environment: its threads, freed memory kept, the user's code, and its GPUs."""
    ours = dict.fromkeys(_THREADS, str(threads)) | for_children()
    if card is not None:
        ours[VISIBLE] = card
    inherited = {name: value for name, value in os.environ.items() if name != url.VARIABLE}  # may hold a password
    return {"GLIBC_TUNABLES": KEEP_MEMORY} | inherited | ours


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _opened(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("a slot has no pipe to its child")
    return stream
