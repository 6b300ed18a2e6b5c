"""The worker: one process that owns the storage, sends trials to slots and records what they report.

Only this process writes to the storage, so a SQLite file has a single writer. A trial that fails in any way, even by
the death of its process, is recorded with the reason, and the next trial starts.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dropopt.config import ConfigError, RunConfig
from dropopt.study.run.errors import StudyError
from dropopt.study.run.executor import Died, Event, Executor
from dropopt.study.run.failures import FailureCounter
from dropopt.study.run.messages import Done, Failed, FromTrainer, Prepare, Ready, Report, Stop, Train
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.store.errors import StorageError, TrialEndedError
from dropopt.study.store.ledger import Ledger
from dropopt.study.store.total import counted

if TYPE_CHECKING:
    import optuna

#: Seconds after which the worker checks the time limit, and redraws, although nothing has happened.
TICK = 0.25

#: What is shown about a trial that another process has ended, such as ``optuna tell`` or the dashboard.
ENDED_ELSEWHERE = "it was ended by another process"


class Listener(Protocol):
    """Receives what happens, to show it; see :mod:`dropopt.study.show.progress`."""

    def started(self, slot: int, trial: int) -> None:
        """A slot has started a trial."""

    def reported(self, slot: int, trial: int, report: Report) -> None:
        """A trial has finished an epoch."""

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended; ``failure`` is the reason if it failed."""

    def tick(self) -> None:
        """Called after every event, and at least every :data:`TICK` seconds."""


@dataclass
class _Running:
    """A trial in a slot."""

    trial: optuna.Trial
    began: float = field(default_factory=time.monotonic)
    #: Whether the trial has ended in the storage, but its slot is not free yet: it was pruned, or ended elsewhere.
    pruned: bool = False
    #: Why it ended, if it was not pruned.
    note: str = ""


class Worker:
    """Runs trials until the study has enough of them, the time limit is over or a signal arrives.

    Args:
        executor: Runs the trials.
        open_study: Creates or opens the study, as soon as the first slot has loaded the data.
        listener: Receives what happens.
        base: The configuration that all trials share.
        n_trials: The number of trials after which the study is complete, earlier runs included.
        timeout: Seconds after which no further trial starts; None for no limit.
    """

    def __init__(
        self,
        executor: Executor,
        open_study: Callable[[Ready], Ledger],
        listener: Listener,
        *,
        base: RunConfig,
        n_trials: int,
        timeout: float | None = None,
    ) -> None:
        self._executor = executor
        self._open_study = open_study
        self._listener = listener
        self._base = base
        self._n_trials = n_trials
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._ledger: Ledger | None = None
        self._fingerprint: dict[str, str] | None = None
        self._ready: set[int] = set()
        self._running: dict[int, _Running] = {}
        self._failures = FailureCounter()
        self._signals = SignalCatcher(on_first=executor.wake, on_second=executor.kill)

    @property
    def signal(self) -> int | None:
        """The number of the signal that has stopped the study, if any."""
        return self._signals.received

    def run(self) -> None:
        """Run trials; when this returns or raises, no trial of this worker is running."""
        with self._signals:
            try:
                self._executor.send(0, Prepare(self._base))
                while not self._finished():
                    event = self._executor.wait(TICK)
                    if event is not None:
                        self._handle(event)
                    self._tend()
                    self._fill_slots()
                    self._listener.tick()
            finally:
                self._executor.kill()
                self._interrupt_running()

    # -- when to start a trial

    def _finished(self) -> bool:
        if self.signal is not None:
            return True
        if self._ledger is None or self._running or self._may_start():
            return False
        # The worker of a trial that is still running elsewhere may die, and then somebody must run that trial.
        return self._is_late() or not self._ledger.others_running()

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _may_start(self) -> bool:
        if self._ledger is None or self._is_late():
            return False
        return counted(self._ledger.study.get_trials(deepcopy=False)) < self._n_trials

    def _fill_slots(self) -> None:
        """Start a trial in every idle slot, as long as trials are left."""
        for slot in range(self._executor.size):
            while slot in self._ready and slot not in self._running and self.signal is None and self._may_start():
                self._start(slot)

    def _start(self, slot: int) -> None:
        asked = self._opened().ask(self._n_trials)
        if asked is None:
            return
        trial, run = asked
        self._listener.started(slot, trial.number)
        if run is None:
            self._listener.ended(slot, trial.number, "its configuration is not valid")
            self._failures.trial_failed("ConfigError", "the configuration is not valid")
            return
        self._running[slot] = _Running(trial)
        self._executor.send(slot, Train(trial.number, run))

    # -- what happens in a slot

    def _handle(self, event: Event) -> None:
        slot, content = event.slot, event.content
        if isinstance(content, Died):
            self._on_died(slot, content)
        elif isinstance(content, Ready):
            self._on_ready(slot, content)
        elif slot in self._running:
            self._on_trial(slot, self._running[slot], content)
        elif isinstance(content, Failed):
            raise _not_prepared(content)

    def _on_ready(self, slot: int, ready: Ready) -> None:
        self._ready.add(slot)
        self._failures.trainer_started()
        self._fingerprint = self._fingerprint or ready.fingerprint
        if ready.fingerprint != self._fingerprint:
            raise ConfigError("the data differ between loads; seed any randomness in the function that returns them")
        if self._ledger is None:
            # The first slot may download and cache the data; the others then find them there.
            self._ledger = self._open_study(ready)
            for other in range(self._executor.size):
                if other != slot:
                    self._executor.send(other, Prepare(self._base))

    def _on_trial(self, slot: int, running: _Running, message: FromTrainer) -> None:
        if running.pruned:
            if not isinstance(message, Report):
                self._release(slot, running.note)
        elif isinstance(message, Report):
            self._on_report(slot, running, message)
        elif isinstance(message, Done):
            self._on_done(slot, running, message)
        elif isinstance(message, Failed):
            self._fail(slot, message.error, message.message, message.trace)

    def _on_report(self, slot: int, running: _Running, report: Report) -> None:
        ledger, trial = self._opened(), running.trial
        try:
            prune = ledger.report(trial, report.smoothed_loss, epoch=report.epoch, epochs=report.epochs)
        except TrialEndedError:
            self._drop(slot)
            return
        if prune:
            ledger.prune(trial, accuracy=report.val_accuracy, seconds=round(time.monotonic() - running.began, 3))
            running.pruned = True
            self._failures.trial_succeeded()
            self._executor.send(slot, Stop(trial.number))
        self._listener.reported(slot, trial.number, report)

    def _on_done(self, slot: int, running: _Running, done: Done) -> None:
        try:
            failure = self._opened().complete(
                running.trial,
                done.smoothed_loss,
                accuracy=done.best_val_accuracy,
                best_loss=done.best_val_loss,
                best_epoch=done.best_epoch,
                seconds=done.seconds,
            )
        except TrialEndedError:
            self._release(slot, ENDED_ELSEWHERE)
            return
        self._release(slot, failure)
        if failure:
            self._failures.trial_failed(failure, "the loss is not finite")
        else:
            self._failures.trial_succeeded()

    def _on_died(self, slot: int, died: Died) -> None:
        """Record the trial that ended with its trainer, and start another trainer."""
        if slot in self._running:
            if self._running[slot].pruned:
                self._release(slot, self._running[slot].note)
            else:
                self._fail(slot, "ProcessDied", died.reason)
        elif slot not in self._ready:
            self._failures.trainer_died_early(died.reason)
        self._ready.discard(slot)
        self._executor.replace(slot)
        self._executor.send(slot, Prepare(self._base))

    # -- how a trial ends

    def _fail(self, slot: int, error: str, message: str, trace: str = "") -> None:
        cause = self._opened().fail(self._running[slot].trial, error, message, trace)
        self._release(slot, f"{cause}: {message}" if message != cause else cause)
        self._failures.trial_failed(cause, message)

    def _interrupt_running(self) -> None:
        reason = "the study stopped" if self.signal is None else f"by {signal.Signals(self.signal).name}"
        # If the storage is gone, the trials stay as they are: other workers, or the next run, take them up.
        with contextlib.suppress(StorageError):
            for slot, running in list(self._running.items()):
                if not running.pruned:
                    self._opened().interrupt(running.trial, reason)
                    self._release(slot)

    def _tend(self) -> None:
        """Keep the leases of the running trials, and stop those that another process has ended."""
        lost = self._ledger.tend() if self._ledger is not None else []
        for slot, running in list(self._running.items()):
            if running.trial.number in lost and not running.pruned:
                self._drop(slot)

    def _drop(self, slot: int) -> None:
        """Stop a trial that another process has ended."""
        running = self._running[slot]
        running.pruned, running.note = True, ENDED_ELSEWHERE
        self._executor.send(slot, Stop(running.trial.number))

    def _release(self, slot: int, failure: str = "") -> None:
        running = self._running.pop(slot)
        self._listener.ended(slot, running.trial.number, failure)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("a trial is running before the study is open")
        return self._ledger


def _not_prepared(failed: Failed) -> Exception:
    """Return the error that ends a study whose data or network cannot be used."""
    if failed.error == "ConfigError":
        return ConfigError(failed.message)
    return StudyError(f"the study cannot begin: {failed.error}: {failed.message} ({failed.where})")
