"""The worker: one process that owns the storage, hands trials to slots and writes down what they report.

Only this process speaks to the storage, so a SQLite file has a single writer, and a child that dies is
seen at once. A trial that fails, however it does, is recorded with its reason and the next one runs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from dropopt.config import ConfigError, RunConfig
from dropopt.study.run.messages import Message
from dropopt.study.run.slots import Event, Pool, Slot
from dropopt.study.store.keys import INTERRUPTED
from dropopt.study.store.ledger import Ledger, counted

if TYPE_CHECKING:
    import optuna

#: A study none of whose trials has worked stops after so many that failed alike.
FIRST_FAILURES = 5
#: A study that has worked before stops after so many in a row.
LATER_FAILURES = 25
#: Children that may die before they are ready, one after the other.
FAILED_STARTS = 3

#: Seconds between two looks at the clock while nothing happens.
TICK = 0.25

#: What a person or a machine sends to end a program.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StudyError(RuntimeError):
    """A study cannot go on; the message says why and what to look at."""


class Listener(Protocol):
    """Who is told what happens: see :mod:`dropopt.study.show.progress`."""

    def started(self, slot: int, trial: int) -> None:
        """A slot begins a trial."""

    def reported(self, slot: int, trial: int, report: Message) -> None:
        """A slot has ended an epoch."""

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended; ``failure`` says why if it went wrong."""

    def tick(self) -> None:
        """Time passes."""


@dataclass
class _Running:
    """A trial in a slot."""

    trial: optuna.Trial
    report: Message = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    #: It has been ended in the storage; the slot has yet to notice.
    over: bool = False


class Worker:
    """Runs trials until the study has ``n_trials`` that count, time is up or a signal comes."""

    def __init__(
        self,
        pool: Pool,
        open_study: Callable[[Message], Ledger],
        listener: Listener,
        *,
        base: RunConfig,
        n_trials: int,
        timeout: float | None = None,
    ) -> None:
        self._pool = pool
        self._open_study = open_study
        self._listener = listener
        self._base = base
        self._n_trials = n_trials
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._objective: Ledger | None = None
        self._data: dict[str, str] | None = None
        self._running: dict[Slot, _Running] = {}
        self._failures: list[str] = []
        self._worked = False
        self._bad_starts = 0
        self.signal: int | None = None

    def run(self) -> None:
        """Work; afterwards no trial of this worker is running, whatever happened."""
        restore = self._catch_signals()
        try:
            self._prepare(self._pool.slots[0])
            while not self._finished():
                event = self._pool.wait(TICK)
                if event is not None:
                    self._handle(event)
                self._fill()
                self._listener.tick()
        finally:
            self._pool.kill()
            for slot in list(self._running):
                self._fail(slot, INTERRUPTED, self._why_interrupted())
            restore()

    def _finished(self) -> bool:
        if self.signal is not None:
            return True
        return self._objective is not None and not self._running and not self._may_start()

    def _may_start(self) -> bool:
        if self._objective is None or (self._deadline is not None and time.monotonic() >= self._deadline):
            return False
        return counted(self._objective.study.get_trials(deepcopy=False)) < self._n_trials

    def _prepare(self, slot: Slot) -> None:
        slot.send(do="prepare", run=self._base.model_dump(mode="json"))

    def _fill(self) -> None:
        """Give every idle slot a trial, while there are trials to give."""
        for slot in self._pool.slots:
            while slot.ready and slot not in self._running and self.signal is None and self._may_start():
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        objective = self._require()
        trial, run = objective.ask()
        self._listener.started(slot.index, trial.number)
        if run is None:
            self._failed("ConfigError", "it is no legal configuration")
            self._listener.ended(slot.index, trial.number, "no legal configuration")
            return
        self._running[slot] = _Running(trial)
        slot.send(do="train", trial=trial.number, run=run.model_dump(mode="json"))

    def _handle(self, event: Event) -> None:
        slot, message = event.slot, event.message
        if slot is None or slot is not self._pool.slots[slot.index]:
            return  # a wake-up call, or the last words of a child that was replaced
        if message is None:
            self._died(slot)
        elif message["kind"] == "ready":
            self._ready(slot, message)
        elif slot in self._running:
            self._hear(slot, self._running[slot], message)
        elif message["kind"] == "failed":
            self._no_data(message)

    def _ready(self, slot: Slot, message: Message) -> None:
        slot.ready = True
        self._bad_starts = 0
        self._data = self._data or message["fingerprint"]
        if message["fingerprint"] != self._data:
            raise ConfigError("the data are others each time they are loaded; a function must seed what it draws")
        if self._objective is None:
            # The first slot may download and cache the data; the others then find it there.
            self._objective = self._open_study(message)
            for other in self._pool.slots:
                if other is not slot:
                    self._prepare(other)

    def _hear(self, slot: Slot, running: _Running, message: Message) -> None:
        """What a slot says about the trial it runs."""
        kind = message["kind"]
        if kind == "report":
            self._report(slot, running, message)
        elif running.over:
            self._let_go(slot)
        elif kind == "done":
            failure = self._require().complete(running.trial, message)
            if failure:
                self._failed(failure, "its loss is not finite")
            else:
                self._succeeded()
            self._let_go(slot, failure)
        elif kind == "failed":
            self._fail(slot, message["error"], message["message"], message["trace"])

    def _report(self, slot: Slot, running: _Running, report: Message) -> None:
        if running.over:
            return
        running.report = report | {"seconds": round(time.monotonic() - running.began, 3)}
        if self._require().report(running.trial, report):
            self._require().prune(running.trial, running.report)
            running.over = True
            self._succeeded()
            slot.send(do="stop", trial=running.trial.number)
        self._listener.reported(slot.index, running.trial.number, report)

    def _died(self, slot: Slot) -> None:
        """Record the trial that went with a child, and start another child."""
        obituary = slot.obituary()
        if slot in self._running:
            if self._running[slot].over:
                self._let_go(slot)
            else:
                self._fail(slot, "ProcessDied", obituary)
        elif not slot.ready:
            self._bad_starts += 1
            if self._bad_starts >= FAILED_STARTS:
                raise StudyError(f"child processes die before they train: {obituary}")
        self._prepare(self._pool.replace(slot))

    def _fail(self, slot: Slot, error: str, message: str, trace: str = "") -> None:
        running = self._running[slot]
        if not running.over:
            cause = self._require().fail(running.trial, error, message, trace)
            if error == INTERRUPTED:
                self._let_go(slot)
            else:
                self._let_go(slot, f"{cause}: {message}" if message != cause else cause)
                self._failed(cause, message)

    def _let_go(self, slot: Slot, failure: str = "") -> None:
        running = self._running.pop(slot)
        self._listener.ended(slot.index, running.trial.number, failure)

    def _succeeded(self) -> None:
        self._worked = True
        self._failures.clear()

    def _failed(self, cause: str, message: str) -> None:
        """Stop a study in which nothing works: going on would only repeat the same mistake all night."""
        if self._failures and self._failures[-1] != cause:
            self._failures.clear()
        self._failures.append(cause)
        limit = LATER_FAILURES if self._worked else FIRST_FAILURES
        if len(self._failures) >= limit:
            raise StudyError(f"{limit} trials in a row failed alike, so the study stops: {cause}: {message}")

    def _no_data(self, message: Message) -> None:
        """Data or network are not what they should be: no trial could run."""
        if message["error"] == "ConfigError":
            raise ConfigError(message["message"])
        raise StudyError(f"the study cannot begin: {message['error']}: {message['message']} ({message['where']})")

    def _require(self) -> Ledger:
        if self._objective is None:
            raise RuntimeError("a slot reports before the study is open")
        return self._objective

    def _why_interrupted(self) -> str:
        return "the study stopped" if self.signal is None else f"by {signal.Signals(self.signal).name}"

    def _catch_signals(self) -> Callable[[], None]:
        """Answer signals until the returned function is called; a no-op outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        # Whoever starts a study under nohup wants it to outlive the terminal.
        hung_up = getattr(signal, "SIGHUP", None)
        ignored = hung_up is not None and signal.getsignal(hung_up) == signal.SIG_IGN
        numbers = [number for number in SIGNALS if not (ignored and number == hung_up)]
        before: dict[int, Any] = {number: signal.signal(number, self._on_signal) for number in numbers}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends the study in good order, the second at once."""
        if self.signal is not None:
            self._pool.kill()
            os._exit(128 + number)
        self.signal = number
        self._pool.wake()
