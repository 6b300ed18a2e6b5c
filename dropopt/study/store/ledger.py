"""The trials of a study in its storage: how they start, report and end.

A study minimizes the validation loss or the validation error, 1 - accuracy, smoothed over epochs.
"""

from __future__ import annotations

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError, RunConfig
from dropopt.study.store import keys, retries
from dropopt.study.store.cached_trials import ANY_AGE
from dropopt.study.store.ending import MESSAGE_CHARACTERS, Endings
from dropopt.study.store.errors import TrialEndedError
from dropopt.study.store.experiment import name_of_files
from dropopt.study.store.history import History
from dropopt.study.store.lease import Watch, WorkerIdentity, certainly_dead, describe
from dropopt.study.store.trial_budget import DECISION_PAUSE, Decision, await_decision
from dropopt.study.store.trial_summary import TrialSummary

#: Bits of a trial's training seed.
SEED_BITS = 31

#: The age in seconds up to which the other workers' trials need not be read again while this worker is idle.
IDLE_AGE = 1.0

_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")


@dataclass(frozen=True)
class _Own:
    """A running trial of this worker."""

    trial: optuna.Trial
    #: The last epoch that an earlier attempt has reported.
    inherited: int
    #: Whether it is never pruned: an anchor, or a trial that continues a pruned one.
    runs_to_end: bool


class Ledger(ABC):
    """Starts the trials of one study, and records their reports and results. A subclass configures the trials.

    Args:
        study: The study, with its sampler and pruner.
        worker: The worker that this ledger belongs to. Default: a new one.
    """

    def __init__(self, study: optuna.Study, worker: WorkerIdentity | None = None) -> None:
        from dropopt.study.store.mirror import mirrored  # it imports SQLAlchemy

        self.study, self._storage = mirrored(study)
        self._summary = TrialSummary()
        self._endings = Endings(self.study, self._storage, self._summary, self._forget)
        self._worker = worker or WorkerIdentity()
        self._watch = Watch(self._worker)
        self._own: dict[int, _Own] = {}  # by the storage's id
        self._beats = 1  # the number of the next renewal of the leases
        self._tended = time.monotonic()
        self._lost_retries = retries.LostRetries(self._worker.interval)
        self._outages = 0
        # A new trial has a lease from the beginning. Its worker may die before it can write another attribute.
        self._storage.stamp = lambda: {keys.WORKER: self._worker.id, keys.LEASE: self._worker.lease(0)}

    def budget_used(self) -> int:
        """Return how many trials use the budget."""
        with self._storage.aged(IDLE_AGE):
            self._summary.update(self._trials())
        return self._summary.budget_used()

    def ask(self, target: int | None = None) -> tuple[optuna.Trial, RunConfig | None] | None:
        """Start the next trial.

        Args:
            target: The number of trials that the study must not exceed; None for no limit.

        Returns:
            The trial and its configuration. The configuration is None if the suggested parameters are not valid; the
            trial has then failed. The result is None if the trial was given back, because another worker started the
            last trial at the same time, or if another worker has taken it over.
        """
        trials = self._trials()  # loaded again, so that the next line counts the trials of other workers as well
        if target is not None and not self.wants(target):
            return None
        try:
            with self._storage.aged(ANY_AGE):
                trial = self._new_trial(len(trials))
                return (trial, self._suggested(trial)) if self._keeps(trial, target) else None
        except UpdateFinishedTrialError:  # this process was stopped for longer than the grace period
            return None

    def _suggested(self, trial: optuna.Trial) -> RunConfig | None:
        """Return the configuration of a new trial, and store it; None if its parameters are not valid."""
        try:
            with self._storage.together(trial._trial_id):
                trial.set_user_attr(keys.LEASE, self._worker.lease(self._beats))
                run = self._configure(trial)
                trial.set_user_attr(keys.SEED, run.train.seed)
                trial.set_user_attr(keys.CONFIG, run.model_dump(mode="json"))
        except ConfigError as error:
            self.fail(trial, "ConfigError", str(error))
            return None
        except BaseException as error:
            if isinstance(error, ValueError) and self._is_enqueued(trial):
                self.fail(trial, "ValueError", f"it was enqueued with a value that is not in the space: {error}")
                return None
            self.fail(trial, keys.ABANDONED, f"the sampler failed: {error!r}")
            raise
        return run

    def why_not_valid(self, trial: optuna.Trial) -> str:
        """Return why :meth:`ask` returned no configuration for ``trial``."""
        return str(self._frozen(trial).user_attrs.get(keys.MESSAGE, "no reason is stored"))

    def wants(self, target: int) -> bool:
        """Whether another trial may start, given the number of trials that the study must not exceed."""
        return self.budget_used() < target

    def checkpoint_of(self, number: int) -> tuple[str, int]:
        """Return what the checkpoint of a trial is named by: the study, and the first attempt at its configuration.

        Args:
            number: The number of the trial.
        """
        with self._storage.aged(ANY_AGE):  # the number of the first attempt never changes
            return self._name_of_files, retries.root(self._trials()[number])

    @cached_property
    def _name_of_files(self) -> str:
        return name_of_files(self.study)

    def report(self, trial: optuna.Trial, value: float, *, epoch: int, epochs: int) -> bool:
        """Store the value of an epoch.

        Args:
            trial: The running trial.
            value: What the study minimizes.
            epoch: The epoch, from 1.
            epochs: The number of epochs of the trial.

        Returns:
            Whether the trial should be pruned. False after its last epoch, because the cost is already paid and a
            complete result is worth more. False for an anchor, because the best trial is compared with its result, and
            for a trial that continues a pruned one. False at an epoch that an earlier attempt has completed.

        Raises:
            TrialEndedError: Another process has ended the trial.
        """
        own = self._own.get(trial._trial_id)
        try:
            if own is not None and epoch <= own.inherited:
                self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
                return False
            trial.report(value, epoch)
            if epoch >= epochs or (own is not None and own.runs_to_end):
                return False
            with self._storage.aged(self._worker.interval):
                return self._should_prune(trial)
        except UpdateFinishedTrialError:
            self._own.pop(trial._trial_id, None)
            raise TrialEndedError from None

    def complete(
        self,
        trial: optuna.Trial,
        value: float,
        *,
        accuracy: float,
        best_loss: float,
        best_epoch: int,
        seconds: float,
        applied: float | None = None,
        history: History | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """End a trial with its result; a value that is not finite makes it fail.

        The history of the epochs is stored if the trial is among the best so far.

        Returns:
            The reason for the failure; an empty string if the trial is complete.

        Raises:
            TrialEndedError: Another process has ended the trial; the earlier result is kept.
        """
        if not math.isfinite(value):
            return self.fail(trial, "NotFinite", f"its validation loss ended at {value}")
        facts = {keys.ACCURACY: accuracy, keys.BEST_LOSS: best_loss, keys.BEST_EPOCH: best_epoch, keys.SECONDS: seconds}
        facts |= scores or {}
        facts |= {} if applied is None else {keys.APPLIED: applied}
        if not self._endings.end(trial, TrialState.COMPLETE, facts, value, history):
            raise TrialEndedError
        return ""

    def prune(self, trial: optuna.Trial, *, accuracy: float, seconds: float, applied: float | None = None) -> None:
        """End a trial as pruned; its value is the last one that it reported."""
        facts = {keys.ACCURACY: accuracy, keys.SECONDS: seconds} | ({} if applied is None else {keys.APPLIED: applied})
        self._endings.end(trial, TrialState.PRUNED, facts)

    def fail(self, trial: optuna.Trial | FrozenTrial, error: str, message: str, trace: str = "") -> str:
        """End a trial as failed.

        Args:
            trial: The trial.
            error: The name of the error's class, or one of the values of ``REASON`` in :mod:`dropopt.study.store.keys`.
            message: The error's message.
            trace: The end of its traceback.

        Returns:
            The reason that is stored: ``error``, or ``out of memory``.
        """
        cause = keys.OUT_OF_MEMORY if error in _MEMORY_ERRORS else error
        facts = {keys.REASON: cause, keys.MESSAGE: message[:MESSAGE_CHARACTERS], keys.TRACE: trace}
        self._endings.end(trial, TrialState.FAIL, {key: fact for key, fact in facts.items() if fact})
        return cause

    def interrupt(self, trial: optuna.Trial, message: str) -> None:
        """End a trial because its worker stops. It is enqueued again when the study is resumed, or by another worker.

        A trial whose parameters were enqueued is enqueued again at once, before other workers start new trials.
        """
        self._endings.without_result(self._frozen(trial), keys.INTERRUPTED, message)

    def take_up(self, *, everything: bool = False) -> None:
        """Enqueue again the trials that dead workers have left behind. Called when a study is resumed.

        Args:
            everything: Whether to take up all running trials, without waiting for the grace period.
        """
        trials = self._trials()
        for trial in trials:
            if _is_running(trial) and (everything or certainly_dead(trial, self._worker)):
                self._abandon(trial)
        if not self._worker.exclusive and retries.without_replacement(trials):
            time.sleep(random.uniform(0, 10 * DECISION_PAUSE))  # other workers may be resuming at the same time
        for trial in retries.without_replacement(self._trials()):
            retries.enqueue_again(self.study, trial)

    def tend(self) -> list[int]:
        """Renew the leases of this worker's trials, and take over the trials of dead workers.

        Call it several times a second.

        Returns:
            The numbers of this worker's trials that another process has ended.
        """
        now = time.monotonic()
        if now - self._tended < self._worker.interval:
            return []
        self._tended = now
        lost = []
        for trial_id, own in list(self._own.items()):
            try:
                self._storage.set_trial_user_attr(trial_id, keys.LEASE, self._worker.lease(self._beats))
            except UpdateFinishedTrialError:
                lost.append(own.trial.number)
                del self._own[trial_id]
        self._beats += 1
        self._summary.update(self._trials())
        if self._storage.outages != self._outages:
            self._outages = self._storage.outages
            self._watch.restart()
        for orphan in self._watch.observe(self._summary.unfinished, self._own):
            self._abandon(orphan)
        for ended in self._lost_retries.due(self._summary.without_replacement(), now):
            retries.enqueue_again(self.study, ended)
        return lost

    def others_running(self) -> int:
        """Return the number of running trials of other workers."""
        with self._storage.aged(IDLE_AGE):
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return sum(trial._trial_id not in self._own for trial in running)

    def _abandon(self, trial: FrozenTrial) -> None:
        message = f"{describe(trial)} is no longer running; attempt {retries.attempt(trial)} of {retries.MAX_ATTEMPTS}"
        self._endings.without_result(trial, keys.ABANDONED, message)

    def _new_trial(self, before: int) -> optuna.Trial:
        """Start a trial; ``before`` is the number of trials that exist."""
        try:
            trial = self._take()
        except BaseException as error:
            # Optuna creates the trial before it calls the sampler; if the sampler fails, no other code ends the trial.
            for orphan in self._trials()[before:]:
                if _is_running(orphan) and orphan.user_attrs.get(keys.WORKER) == self._worker.id:
                    self.fail(orphan, keys.ABANDONED, f"the sampler failed: {error!r}")
            raise
        frozen = self._frozen(trial)
        inherited = max(frozen.intermediate_values, default=0)
        runs_to_end = bool({keys.ANCHOR, keys.CONTINUES} & frozen.user_attrs.keys())
        self._own[trial._trial_id] = _Own(trial, inherited, runs_to_end)
        if frozen.user_attrs.get(keys.WORKER) != self._worker.id:  # it was enqueued
            with self._storage.together(trial._trial_id):
                trial.set_user_attr(keys.WORKER, self._worker.id)
                trial.set_user_attr(keys.LEASE, self._worker.lease(0))
        return trial

    def _take(self) -> optuna.Trial:
        return self.study.ask()

    @abstractmethod
    def _configure(self, trial: optuna.Trial) -> RunConfig:
        """Return the configuration of a new trial, with its training seed. Raises ConfigError if it is not valid."""

    def _should_prune(self, trial: optuna.Trial) -> bool:
        """Whether a trial, which has just reported, should be pruned."""
        return trial.should_prune()

    def _keeps(self, trial: optuna.Trial, target: int | None) -> bool:
        """Return whether the new trial is within the target; otherwise give it back."""
        if self._worker.exclusive or target is None:
            return True
        enqueued = self._is_enqueued(trial)
        if not enqueued and trial.number < target:  # there are no more trials than the target
            return True
        with self._storage.aged(0):
            decision, message = await_decision(self._trials, trial.number, target), "the study has enough trials"
            trials = self._trials()
        duplicate = retries.is_duplicate(trials[trial.number], trials)
        if duplicate:
            decision, message = Decision.GIVE_BACK, "another trial replaces the same one"
        if decision == Decision.KEEP:
            trial.set_user_attr(keys.LEASE, self._worker.lease(self._beats))
            return True
        self._endings.without_result(trials[trial.number], keys.GIVEN_BACK, message, again=enqueued and not duplicate)
        return False

    def _trials(self) -> Sequence[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, trial: optuna.Trial | FrozenTrial) -> FrozenTrial:
        """Return the trial as it is stored now."""
        return self._storage.get_trial(trial._trial_id)

    def _forget(self, trial_id: int) -> None:
        self._own.pop(trial_id, None)

    def _is_enqueued(self, trial: optuna.Trial) -> bool:
        """Whether the trial's parameters were enqueued, with ``enqueue_trial`` or on the dashboard."""
        return "fixed_params" in self._frozen(trial).system_attrs


def with_seed(run: RunConfig, seed: int) -> RunConfig:
    """Return ``run`` with another training seed."""
    return run.model_copy(update={"train": run.train.model_copy(update={"seed": seed})})


def _is_running(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING
