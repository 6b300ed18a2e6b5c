"""The trials of a study in its storage: how they start, report and end.

A study minimizes the validation loss or the validation error, 1 - accuracy, smoothed over epochs.
"""

from __future__ import annotations

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig
from dropopt.study.store.errors import TrialEndedError
from dropopt.study.store.keys import (
    ABANDONED,
    ACCURACY,
    ANCHOR,
    BEST_EPOCH,
    BEST_LOSS,
    CONFIG,
    GIVEN_BACK,
    INTERRUPTED,
    LEASE,
    MESSAGE,
    REASON,
    RETRY,
    SECONDS,
    SEED,
    TRACE,
    WORKER,
)
from dropopt.study.store.lease import Watch, WorkerIdentity, certainly_dead, describe
from dropopt.study.store.retries import (
    MAX_ATTEMPTS,
    LostRetries,
    attempt,
    enqueue_again,
    is_duplicate,
    may_run_again,
    root,
    without_replacement,
)
from dropopt.study.store.total import Decision, counted, decide

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, TrialState

#: Characters of an error message that are stored: dashboards show it in a cell of a table.
MESSAGE_CHARACTERS = 500

#: Bits of a trial's training seed.
SEED_BITS = 31

#: Seconds to wait for other workers to decide whether they give a trial back, and seconds between two checks.
DECISION_PATIENCE = 5.0
DECISION_PAUSE = 0.05

_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


class Ledger(ABC):
    """Starts the trials of one study, and records their reports and results. A subclass configures the trials.

    Args:
        study: The study, with its sampler and pruner.
        worker: The worker that this ledger belongs to. Default: a new one.
    """

    def __init__(self, study: optuna.Study, worker: WorkerIdentity | None = None) -> None:
        self.study = study
        self._worker = worker or WorkerIdentity()
        self._watch = Watch(self._worker)
        self._own: dict[int, optuna.Trial] = {}  # this worker's running trials, by the storage's id
        self._inherited: dict[int, int] = {}  # the last epoch that an earlier attempt has reported, by the same id
        self._beats = 1  # the number of the next renewal of the leases
        self._tended = time.monotonic()
        self._lost_retries = LostRetries(self._worker.interval)

    def ask(self, target: int | None = None) -> tuple[optuna.Trial, RunConfig | None] | None:
        """Start the next trial.

        Args:
            target: The number of trials that the study must not exceed; None for no limit.

        Returns:
            The trial and its configuration. The configuration is None if the suggested parameters are not valid; the
            trial has then failed. The result is None if the trial was given back, because another worker started the
            last trial at the same time.
        """
        trial = self._new_trial()
        if not self._keeps(trial, target):
            return None
        try:
            run = self._configure(trial)
        except ConfigError as error:
            self.fail(trial, "ConfigError", str(error))
            return trial, None
        except BaseException as error:
            if isinstance(error, ValueError) and self._is_enqueued(trial):
                self.fail(trial, "ValueError", f"it was enqueued with a value that is not in the space: {error}")
                return trial, None
            self.fail(trial, ABANDONED, f"the sampler failed: {error!r}")
            raise
        trial.set_user_attr(SEED, run.train.seed)
        trial.set_user_attr(CONFIG, run.model_dump(mode="json"))
        return trial, run

    def wants(self, target: int) -> bool:
        """Whether another trial may start, given the number of trials that the study must not exceed."""
        return counted(self.study.get_trials(deepcopy=False)) < target

    def checkpoint_of(self, number: int) -> tuple[str, int]:
        """Return the study and the trial that name the checkpoint of a trial: the first attempt at its configuration.

        Args:
            number: The number of the trial.
        """
        return self.study.study_name, root(self.study.get_trials(deepcopy=False)[number])

    def report(self, trial: optuna.Trial, value: float, *, epoch: int, epochs: int) -> bool:
        """Store the value of an epoch.

        Args:
            trial: The running trial.
            value: What the study minimizes.
            epoch: The epoch, from 1.
            epochs: The number of epochs of the trial.

        Returns:
            Whether the trial should be pruned. False after its last epoch, because the cost is already paid and a
            complete result is worth more. False for an anchor, because the best trial is compared with its result.
            False at an epoch that an earlier attempt has completed.

        Raises:
            TrialEndedError: Another process has ended the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        inherited = self._inherited.get(trial._trial_id, 0)
        try:
            if epoch <= inherited:
                self.study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
                return False
            trial.report(value, epoch)
            return epoch < epochs and self._should_prune(trial)
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
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """End a trial with its result; a value that is not finite makes it fail.

        Returns:
            The reason for the failure; an empty string if the trial is complete.

        Raises:
            TrialEndedError: Another process has ended the trial; the earlier result is kept.
        """
        from optuna.trial import TrialState

        if not math.isfinite(value):
            return self.fail(trial, "NotFinite", f"its validation loss ended at {value}")
        facts = {ACCURACY: accuracy, BEST_LOSS: best_loss, BEST_EPOCH: best_epoch, SECONDS: seconds, **(scores or {})}
        if not self._end(trial, TrialState.COMPLETE, facts, value):
            raise TrialEndedError
        return ""

    def prune(self, trial: optuna.Trial, *, accuracy: float, seconds: float) -> None:
        """End a trial as pruned; its value is the last one that it reported."""
        from optuna.trial import TrialState

        self._end(trial, TrialState.PRUNED, {ACCURACY: accuracy, SECONDS: seconds})

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
        from optuna.trial import TrialState

        cause = "out of memory" if error in _OUT_OF_MEMORY else error
        facts = {REASON: cause, MESSAGE: message[:MESSAGE_CHARACTERS], TRACE: trace}
        self._end(trial, TrialState.FAIL, {key: fact for key, fact in facts.items() if fact})
        return cause

    def interrupt(self, trial: optuna.Trial, message: str) -> None:
        """End a trial because its worker stops. It is enqueued again when the study is resumed, or by another worker.

        A trial whose parameters were enqueued is enqueued again at once, before other workers start new trials.
        """
        self._end_without_result(self._frozen(trial), INTERRUPTED, message)

    def take_up(self) -> None:
        """Enqueue again the trials that dead workers have left behind. Called when a study is resumed."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if _is_running(trial) and certainly_dead(trial, self._worker):
                self._abandon(trial)
        if not self._worker.exclusive and without_replacement(trials):
            time.sleep(random.uniform(0, 10 * DECISION_PAUSE))  # other workers may be resuming at the same time
        for trial in without_replacement(self.study.get_trials(deepcopy=False)):
            enqueue_again(self.study, trial)

    def tend(self) -> list[int]:
        """Renew the leases of this worker's trials, and take over the trials of dead workers.

        Call it several times a second.

        Returns:
            The numbers of this worker's trials that another process has ended.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        now = time.monotonic()
        if now - self._tended < self._worker.interval:
            return []
        self._tended = now
        lost = []
        for trial_id, trial in list(self._own.items()):
            try:
                self.study._storage.set_trial_user_attr(trial_id, LEASE, self._worker.lease(self._beats))
            except UpdateFinishedTrialError:
                lost.append(trial.number)
                del self._own[trial_id]
        self._beats += 1
        for orphan in self._watch.observe(self.study.get_trials(deepcopy=False), self._own):
            self._abandon(orphan)
        for ended in self._lost_retries.due(self.study.get_trials(deepcopy=False), now):
            enqueue_again(self.study, ended)
        return lost

    def others_running(self) -> int:
        """Return the number of running trials of other workers."""
        return sum(_is_running(t) and t._trial_id not in self._own for t in self.study.get_trials(deepcopy=False))

    def _abandon(self, trial: FrozenTrial) -> None:
        message = f"{describe(trial)} is no longer running; attempt {attempt(trial)} of {MAX_ATTEMPTS}"
        self._end_without_result(trial, ABANDONED, message)

    def _end_without_result(self, trial: FrozenTrial, reason: str, message: str, *, again: bool = True) -> bool:
        """End a trial and enqueue it again if it may run again. Returns whether this call has ended it."""
        from optuna.trial import TrialState

        again = again and may_run_again(trial, reason)
        facts = {REASON: reason, MESSAGE: message[:MESSAGE_CHARACTERS]} | ({RETRY: True} if again else {})
        ended = self._end(trial, TrialState.FAIL, facts)
        if ended and again and (reason != INTERRUPTED or "fixed_params" in trial.system_attrs):
            enqueue_again(self.study, self._frozen(trial))
        return ended

    def _new_trial(self) -> optuna.Trial:
        before = len(self.study.get_trials(deepcopy=False))
        try:
            trial = self.study.ask()
        except BaseException as error:
            # Optuna creates the trial before it calls the sampler; if the sampler fails, no other code ends the trial.
            for orphan in self.study.get_trials(deepcopy=False)[before:]:
                if _is_running(orphan) and LEASE not in orphan.user_attrs:
                    self.fail(orphan, ABANDONED, f"the sampler failed: {error!r}")
            raise
        self._own[trial._trial_id] = trial
        self._inherited[trial._trial_id] = max(self._frozen(trial).intermediate_values, default=0)
        trial.set_user_attr(WORKER, self._worker.id)
        trial.set_user_attr(LEASE, self._worker.lease(0))
        return trial

    @abstractmethod
    def _configure(self, trial: optuna.Trial) -> RunConfig:
        """Return the configuration of a new trial, with its training seed. Raises ConfigError if it is not valid."""

    def _should_prune(self, trial: optuna.Trial) -> bool:
        """Whether a trial, which has just reported, should be pruned."""
        return ANCHOR not in trial.user_attrs and trial.should_prune()

    def _keeps(self, trial: optuna.Trial, target: int | None) -> bool:
        """Return whether the new trial is within the target; otherwise give it back."""
        if self._worker.exclusive or target is None:
            return True
        decision, message = self._decision(trial.number, target), "the study has enough trials"
        trials = self.study.get_trials(deepcopy=False)
        duplicate = is_duplicate(trials[trial.number], trials)
        if duplicate:
            decision, message = Decision.GIVE_BACK, "another trial replaces the same one"
        if decision == Decision.KEEP:
            trial.set_user_attr(LEASE, self._worker.lease(self._beats))
            return True
        again = not duplicate and self._is_enqueued(trial)
        self._end_without_result(trials[trial.number], GIVEN_BACK, message, again=again)
        return False

    def _decision(self, number: int, target: int) -> Decision:
        end = time.monotonic() + DECISION_PATIENCE
        while True:
            decision = decide(self.study.get_trials(deepcopy=False), number, target)
            if decision != Decision.WAIT or time.monotonic() >= end:
                return decision
            time.sleep(DECISION_PAUSE)

    def _frozen(self, trial: optuna.Trial | FrozenTrial) -> FrozenTrial:
        """Return the trial as it is stored now."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _is_enqueued(self, trial: optuna.Trial) -> bool:
        """Whether the trial's parameters were enqueued, with ``enqueue_trial`` or on the dashboard."""
        return "fixed_params" in self._frozen(trial).system_attrs

    def _end(
        self,
        trial: optuna.Trial | FrozenTrial,
        state: TrialState,
        facts: Mapping[str, Any],
        value: float | None = None,
    ) -> bool:
        """Write the attributes, then the state: a finished trial accepts no attributes.

        Returns:
            Whether this call has ended the trial. Another process may have ended it already; the earlier result is
            kept.
        """
        import optuna

        self._own.pop(trial._trial_id, None)
        self._inherited.pop(trial._trial_id, None)
        # A trial of another worker is a FrozenTrial, for which Optuna has no public way to write attributes.
        storage = self.study._storage
        try:
            for key, fact in facts.items():
                storage.set_trial_user_attr(trial._trial_id, key, fact)
            if isinstance(trial, optuna.trial.FrozenTrial):
                storage.set_trial_state_values(trial._trial_id, state)  # raises if another worker was faster
            else:
                self.study.tell(trial, value, state)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        except ValueError:
            if self._frozen(trial).state.is_finished():  # Optuna's error if it was ended a moment ago
                return False
            raise
        return True


def with_seed(run: RunConfig, seed: int) -> RunConfig:
    """Return ``run`` with another training seed."""
    return run.model_copy(update={"train": run.train.model_copy(update={"seed": seed})})


def _is_running(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    return trial.state == TrialState.RUNNING
