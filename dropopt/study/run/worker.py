"""The worker: one process that owns the storage, sends trials to slots and records what they report.

Only this process writes to the storage, so a SQLite file has a single writer. A trial that fails in any way is recorded
with the reason, and the next trial starts. If the process of a trial dies, a new one continues the trial from its
checkpoint, or trains it again if there is none.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dropopt.config import ConfigError, RunConfig
from dropopt.study.run.checkpoints import Checkpoints, keep, remove
from dropopt.study.run.errors import StudyError
from dropopt.study.run.failures import PROCESS_DIED, FailureCounter, error_of
from dropopt.study.run.messages import Done, Failed, FromTrainer, Prepare, Ready, Report, Stop, Train
from dropopt.study.run.running import GRACE_SECONDS, MAX_DEATHS, Limits, Running
from dropopt.study.run.signals import SIGNAL_SECONDS, SIGNALS, SignalCatcher
from dropopt.study.run.slots import Died, Event, Pool
from dropopt.study.store.errors import StorageError, TrialEndedError
from dropopt.study.store.keys import OUT_OF_MEMORY, TIME_LIMIT
from dropopt.study.store.ledger import Ledger

#: The worker checks the time limits, and redraws, at least once in this many seconds.
TICK = 0.25

#: The message about a trial that another process, such as ``optuna tell`` or the dashboard, has ended.
ENDED_ELSEWHERE = "it was ended by another process"


class Listener(Protocol):
    """Receives the events of a study and shows them; see :mod:`dropopt.study.show.progress`."""

    def started(self, slot: int, trial: int) -> None:
        """A slot has started a trial."""

    def reported(self, slot: int, trial: int, report: Report) -> None:
        """A trial has finished an epoch."""

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended; ``failure`` is the reason if it failed."""

    def restarted(self, slot: int, trial: int, reason: str) -> None:
        """The process of a trial has died for this reason, and a new one continues the trial."""

    def stalled(self, slot: int, trial: int, seconds: float, longest: float) -> None:
        """A trial may hang: it has reported nothing for so many seconds, and its longest epoch took so long."""

    def moved(self, slot: int, to: int) -> None:
        """The trial of a slot continues in another slot."""

    def tick(self) -> None:
        """Called after every event, and at least every :data:`TICK` seconds."""


class Worker:
    """Runs trials until the study has enough of them, the time limit has passed or a signal arrives.

    Args:
        pool: Runs the trials.
        open_study: Creates or opens the study; called when the first slot has loaded the data.
        listener: Receives the events.
        base: The configuration that all trials share.
        n_trials: The number of trials after which the study is complete, earlier runs included.
        limits: How long the session and its trials may take.
        checkpoints: The folder of the checkpoints; None to train without them.
        keep_checkpoints: The number of pruned trials, and of trials ended by a limit, whose checkpoints are kept.
        keep: Whether the checkpoints of completed trials are kept. They hold the weights of the best epoch.
        weights: The file of the weights of each completed trial, by its number; None to write none.
        on_new_code: Called with the user's modules that were edited while the study runs, once a trainer uses them.
        signals: Catches the signals that stop the study.
    """

    def __init__(
        self,
        pool: Pool,
        open_study: Callable[[Ready], Ledger],
        listener: Listener,
        *,
        base: RunConfig,
        n_trials: int,
        limits: Limits | None = None,
        checkpoints: Path | None = None,
        keep_checkpoints: int = 0,
        keep: bool = False,
        weights: Callable[[int], Path] | None = None,
        on_new_code: Callable[[list[str]], None] = lambda modules: None,
        signals: SignalCatcher | None = None,
    ) -> None:
        self._pool = pool
        self._open_study = open_study
        self._listener = listener
        self._base = base
        self._n_trials = n_trials
        self._limits = limits or Limits()
        self._deadline = None if self._limits.timeout is None else time.monotonic() + self._limits.timeout
        self._checkpoints = checkpoints
        self._keep_checkpoints = keep_checkpoints
        self._keep = keep
        self._weights = weights
        self._ledger: Ledger | None = None
        self._on_new_code = on_new_code
        self._fingerprint: dict[str, str] | None = None
        self._code: dict[int, dict[str, str]] = {}  # the hashes of the modules that the trainer of each slot imported
        self._newest: dict[str, str] | None = None  # those of the trainer that was ready last
        self._ready: set[int] = set()
        self._running: dict[int, Running] = {}
        self._failures = FailureCounter()
        self._signals = signals or SignalCatcher()

    @property
    def signal(self) -> int | None:
        """The number of the signal that has stopped the study, if any."""
        return self._signals.received

    def run(self) -> None:
        """Run trials; when this returns or raises, no trial of this worker is running."""
        with self._signals.guarding(on_first=self._pool.wake, on_second=self._pool.kill):
            try:
                self._pool.send(0, Prepare(self._base))
                while not self._finished():
                    event = self._pool.wait(TICK)
                    if event is not None:
                        self._handle(event)
                    self._tend()
                    self._end_overdue()
                    self._fill_slots()
                    self._listener.tick()
            finally:
                self._pool.kill()
                self._interrupt_running()

    # -- when to start a trial

    def _finished(self) -> bool:
        if self.signal is not None:
            return True
        if self._ledger is None or self._running or self._may_start():
            return False
        # The worker of a trial that is running elsewhere may die; this worker then has to run the trial.
        return self._is_late() or not self._ledger.others_running()

    def _is_late(self, grace: float = 0.0) -> bool:
        """Whether the time limit of the session passed at least ``grace`` seconds ago."""
        return self._deadline is not None and time.monotonic() >= self._deadline + grace

    def _may_start(self) -> bool:
        if self._ledger is None or self._is_late():
            return False
        return self._ledger.wants(self._n_trials)

    def _fill_slots(self) -> None:
        """Start a trial in every idle slot, as long as trials are left."""
        for slot in range(self._pool.size):
            while slot in self._ready and slot not in self._running and self.signal is None:
                if (stranded := self._stranded()) is not None:
                    self._listener.moved(stranded, slot)
                    self._train(slot, self._running.pop(stranded))
                elif not self._may_start():
                    break
                elif self._code[slot] != self._newest:
                    self._replace(slot)
                else:
                    self._start(slot)

    def _stranded(self) -> int | None:
        """Return a slot whose trial waits for a new trainer; on a cluster that has lost a node none may ever start."""
        waiting = (slot for slot, running in self._running.items() if slot not in self._ready and not running.ended)
        return next(waiting, None)

    def _start(self, slot: int) -> None:
        asked = self._opened().ask(self._n_trials)
        self._tend()  # a sampler may be slow, and there may be many slots
        if asked is None:
            return
        trial, run = asked
        self._listener.started(slot, trial.number)
        if run is None:
            reason = self._opened().why_not_valid(trial)
            self._listener.ended(slot, trial.number, f"its configuration is not valid: {reason}")
            self._failures.trial_failed("ConfigError", f"the configuration is not valid: {reason}")
            return
        path = None
        if self._checkpoints is not None:
            study, number = self._opened().checkpoint_of(trial.number)
            path = Checkpoints(self._checkpoints, study).path(number)
        self._train(slot, Running(trial, run, path))

    def _train(self, slot: int, running: Running) -> None:
        """Train a trial in a slot that is ready, from its checkpoint if there is one."""
        self._running[slot] = running
        checkpoint = None if running.checkpoint is None else str(running.checkpoint)
        weights = None if self._weights is None else str(self._weights(running.trial.number))
        self._pool.send(slot, Train(running.trial.number, running.run, checkpoint, weights))

    # -- events of a slot

    def _handle(self, event: Event) -> None:
        slot, content = event.slot, event.content
        if isinstance(content, Died):
            self._on_died(slot, content)
        elif isinstance(content, Ready):
            self._on_ready(slot, content)
        elif isinstance(content, Failed) and content.trial is None:
            raise error_of(content, "the study cannot begin")
        elif slot in self._running and content.trial == self._running[slot].trial.number:
            self._on_trial(slot, self._running[slot], content)

    def _on_ready(self, slot: int, ready: Ready) -> None:
        self._ready.add(slot)
        self._failures.trainer_started()
        self._fingerprint = self._fingerprint or ready.fingerprint
        if ready.fingerprint != self._fingerprint:
            raise ConfigError("the data differ between loads; seed any randomness in the function that returns them")
        if self._ledger is None:
            # The others start after the first slot, which may have to download and cache the data.
            self._ledger = self._open_study(ready)
            for other in range(self._pool.size):
                if other != slot:
                    self._pool.send(other, Prepare(self._base))
        self._compare_code(slot, ready.code)
        if slot in self._running:
            self._train(slot, self._running[slot])

    def _compare_code(self, slot: int, code: dict[str, str]) -> None:
        """Notice that the user has edited code while the study runs: trainers import it when they start.

        From then on all trials use the new source, so that the study can say which trials used which.
        """
        before, self._newest = self._newest, code
        self._code[slot] = code
        if before is not None and code != before:
            self._on_new_code([module for module in code if before.get(module) != code[module]])

    def _on_trial(self, slot: int, running: Running, message: FromTrainer) -> None:
        if running.ended:
            if not isinstance(message, Report):
                self._release(slot, running.note)
        elif isinstance(message, Report):
            running.epoch_ended()
            running.keep(message)
            if message.epoch > running.reported:
                self._on_report(slot, running, message)
        elif isinstance(message, Done):
            self._on_done(slot, running, message)
        elif isinstance(message, Failed):
            reason = OUT_OF_MEMORY if message.out_of_memory else message.error
            self._fail(slot, reason, message.message, message.trace)

    def _on_report(self, slot: int, running: Running, report: Report) -> None:
        ledger, trial = self._opened(), running.trial
        try:
            prune = ledger.report(trial, report.objective, epoch=report.epoch, epochs=report.epochs)
        except TrialEndedError:
            self._drop(slot)
            return
        if prune:
            ledger.prune(trial, accuracy=report.val_accuracy, seconds=running.seconds, applied=running.applied)
            running.ended = True
            self._failures.trial_succeeded()
            self._pool.send(slot, Stop(trial.number))
        running.reported = report.epoch
        self._listener.reported(slot, trial.number, report)

    def _on_done(self, slot: int, running: Running, done: Done) -> None:
        try:
            failure = self._opened().complete(
                running.trial,
                done.objective,
                accuracy=done.best_val_accuracy,
                best_loss=done.best_val_loss,
                best_epoch=done.best_epoch,
                seconds=running.seconds if running.deaths else done.seconds,
                applied=running.applied,
                history=running.history,
                scores=done.scores,
            )
        except TrialEndedError:
            self._release(slot, ENDED_ELSEWHERE, keep_checkpoint=True)
            return
        self._release(slot, failure, keep_checkpoint=self._keep and not failure)
        if failure:
            self._failures.trial_failed(failure, "the loss is not finite")
        else:
            self._failures.trial_succeeded()

    def _on_died(self, slot: int, died: Died) -> None:
        """Replace a trainer that has ended, and continue its trial if it may continue."""
        if died.signal in SIGNALS and self._signals.wait(SIGNAL_SECONDS):
            return  # the trial is recorded as interrupted
        running, was_ready = self._running.get(slot), slot in self._ready
        self._replace(slot)
        if not was_ready:
            if not died.lost_machine:
                self._failures.trainer_died_early(died.reason)
        elif running is not None and running.ended:
            self._release(slot, running.note)
        elif running is not None:
            running.deaths += 1
            if died.out_of_memory or running.deaths >= MAX_DEATHS:
                self._fail(slot, _reason(died), died.reason)
            else:
                running.restarted()
                lost = "" if running.checkpoint else "; it begins again, because no --checkpoints DIR is given"
                self._listener.restarted(slot, running.trial.number, died.reason + lost)

    def _replace(self, slot: int) -> None:
        self._ready.discard(slot)
        self._pool.replace(slot)
        self._pool.send(slot, Prepare(self._base))

    # -- time limits

    def _end_overdue(self) -> None:
        """End the trials that exceed a time limit, and those that do not stop when they should."""
        if self._ledger is None:
            if self._is_late(GRACE_SECONDS):
                raise StudyError("the data could not be loaded within the time limit; give a longer --timeout")
            return
        for slot, running in list(self._running.items()):
            limit = self._limits.trial_timeout
            if not running.ended and (silence := running.stalled()) is not None:
                self._listener.stalled(slot, running.trial.number, silence, running.longest_epoch)
            if running.ended:
                if running.is_silent(since=0):
                    self._replace(slot)
                    self._release(slot, running.note)
            elif limit is not None and running.seconds > limit:
                self._replace(slot)
                self._fail(slot, TIME_LIMIT, f"it did not end within {limit:g} s")
            elif self._deadline is not None and running.is_silent(since=self._deadline):
                self._replace(slot)
                self._interrupt(slot, "the study's time limit has passed, and the trial has stopped reporting")

    # -- how a trial ends

    def _fail(self, slot: int, error: str, message: str, trace: str = "") -> None:
        running = self._running[slot]
        cause = self._opened().fail(running.trial, error, message, trace)
        running.limited = cause in (TIME_LIMIT, OUT_OF_MEMORY)
        self._release(slot, f"{cause}: {message}" if message != cause else cause)
        self._failures.trial_failed(cause, message)

    def _interrupt_running(self) -> None:
        reason = "the study stopped" if self.signal is None else f"by {signal.Signals(self.signal).name}"
        # If the storage is gone, the trials stay as they are: other workers, or the next run, take them up.
        with contextlib.suppress(StorageError):
            for slot, running in list(self._running.items()):
                if running.ended:
                    self._release(slot, running.note)
                else:
                    self._interrupt(slot, reason)

    def _tend(self) -> None:
        """Renew the leases of the running trials, and stop the trials that another process has ended."""
        lost = self._ledger.tend() if self._ledger is not None else []
        for slot, running in list(self._running.items()):
            if running.trial.number in lost and not running.ended:
                self._drop(slot)

    def _drop(self, slot: int) -> None:
        """Stop a trial that another process has ended."""
        running = self._running[slot]
        running.ended, running.note = True, ENDED_ELSEWHERE
        self._pool.send(slot, Stop(running.trial.number))

    def _interrupt(self, slot: int, reason: str) -> None:
        """End a trial that may be continued later: its checkpoint is kept."""
        self._opened().interrupt(self._running[slot].trial, reason)
        self._release(slot, keep_checkpoint=True)

    def _release(self, slot: int, failure: str = "", *, keep_checkpoint: bool = False) -> None:
        """Free a slot. The process that trained the trial has ended or no longer writes its checkpoint."""
        running = self._running.pop(slot)
        # A trial that was ended elsewhere may be continued there, from the same file.
        if running.checkpoint is not None and not keep_checkpoint and not running.note:
            if self._keep_checkpoints and (running.ended or running.limited):
                keep(running.checkpoint, self._keep_checkpoints)
            else:
                remove(running.checkpoint)
        self._listener.ended(slot, running.trial.number, failure)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("a trial is running before the study is open")
        return self._ledger


def _reason(died: Died) -> str:
    """Return the reason to store with a trial whose process has died too often."""
    if died.out_of_memory:
        return OUT_OF_MEMORY
    return "killed (signal 9), probably out of memory" if died.signal == signal.SIGKILL else PROCESS_DIED
