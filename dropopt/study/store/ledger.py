"""The trials of a study in its storage: how they start, report and end.

A study minimizes the validation loss, smoothed over epochs; accuracy is stored beside it.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig
from dropopt.seeds import derived_seed
from dropopt.study.define.space import Space
from dropopt.study.store.keys import (
    ABANDONED,
    ACCURACY,
    BEST_EPOCH,
    BEST_LOSS,
    CONFIG,
    MESSAGE,
    REASON,
    SECONDS,
    SEED,
    TRACE,
    UNCOUNTED,
    WORKER,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, TrialState

#: Characters of an error message that are stored: dashboards show it in a cell of a table.
MESSAGE_CHARACTERS = 500

#: Bits of a trial's training seed.
SEED_BITS = 31

_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


class Ledger:
    """Starts the trials of one study, and records their reports and results.

    Args:
        study: The study, with its sampler and pruner.
        space: The search space.
        base: The configuration that all trials share.
        seed: The seed of the study, from which the training seed of each trial is derived.
        classes: The number of classes of the data.
    """

    def __init__(self, study: optuna.Study, space: Space, base: RunConfig, seed: int, classes: int) -> None:
        self.study = study
        self._space = space
        self._base = base
        self._seed = seed
        self._classes = classes

    def ask(self) -> tuple[optuna.Trial, RunConfig | None]:
        """Start the next trial.

        Each trial has its own training seed, derived from the study's seed and the trial's number. With one seed for
        all, the initial weights could favour the same configurations throughout the study. The split of the data is
        the same for all trials.

        Returns:
            The trial and its configuration. The configuration is None if the suggested parameters are not valid; the
            trial has then failed.
        """
        trial = self._new_trial()
        try:
            run = self._space.suggest(trial, self._classes, self._base)
        except ConfigError as error:
            self.fail(trial, "ConfigError", str(error))
            return trial, None
        except BaseException as error:
            if isinstance(error, ValueError) and self._is_enqueued(trial):
                self.fail(trial, "ValueError", f"it was enqueued with a value that is not in the space: {error}")
                return trial, None
            self.fail(trial, ABANDONED, f"the sampler failed: {error!r}")
            raise
        seed = derived_seed(self._seed, "train", trial.number, bits=SEED_BITS)
        run = run.model_copy(update={"train": run.train.model_copy(update={"seed": seed})})
        trial.set_user_attr(SEED, seed)
        trial.set_user_attr(CONFIG, run.model_dump(mode="json"))
        return trial, run

    def report(self, trial: optuna.Trial, value: float, *, epoch: int, epochs: int) -> bool:
        """Store the value of an epoch.

        Args:
            trial: The running trial.
            value: Smoothed validation loss.
            epoch: The epoch, from 1.
            epochs: The number of epochs of the trial.

        Returns:
            Whether the trial should be pruned. Never after its last epoch: the cost is already paid, and a complete
            result is worth more.
        """
        trial.report(value, epoch)
        return epoch < epochs and trial.should_prune()

    def complete(
        self,
        trial: optuna.Trial,
        value: float,
        *,
        accuracy: float,
        best_loss: float,
        best_epoch: int,
        seconds: float,
    ) -> str:
        """End a trial with its result; a value that is not finite makes it fail.

        Returns:
            The reason for the failure; an empty string if the trial is complete.
        """
        from optuna.trial import TrialState

        if not math.isfinite(value):
            return self.fail(trial, "NotFinite", f"its validation loss ended at {value}")
        facts = {ACCURACY: accuracy, BEST_LOSS: best_loss, BEST_EPOCH: best_epoch, SECONDS: seconds}
        self._end(trial, TrialState.COMPLETE, facts, value)
        return ""

    def prune(self, trial: optuna.Trial, *, accuracy: float, seconds: float) -> None:
        """End a trial that is unlikely to win; its value is the last one that it reported."""
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

    def fail_abandoned(self) -> None:
        """End the trials that were running when a worker on this machine was killed."""
        for trial in self.study.get_trials(deepcopy=False):
            if _is_abandoned(trial):
                self.fail(trial, ABANDONED, f"its worker ({trial.user_attrs[WORKER]}) is no longer running")

    def _new_trial(self) -> optuna.Trial:
        from optuna.trial import TrialState

        before = len(self.study.get_trials(deepcopy=False))
        try:
            trial = self.study.ask()
        except BaseException as error:
            # Optuna creates the trial before it calls the sampler; if that fails, nobody else ends the trial.
            for orphan in self.study.get_trials(deepcopy=False)[before:]:
                if orphan.state == TrialState.RUNNING and WORKER not in orphan.user_attrs:
                    self.fail(orphan, ABANDONED, f"the sampler failed: {error!r}")
            raise
        trial.set_user_attr(WORKER, _this_worker())
        return trial

    def _is_enqueued(self, trial: optuna.Trial) -> bool:
        """Whether somebody chose the trial's parameters, with ``enqueue_trial`` or on the dashboard."""
        return "fixed_params" in self.study.get_trials(deepcopy=False)[trial.number].system_attrs

    def _end(
        self,
        trial: optuna.Trial | FrozenTrial,
        state: TrialState,
        facts: Mapping[str, Any],
        value: float | None = None,
    ) -> None:
        """Write the attributes, then the state: a finished trial accepts no attributes."""
        from optuna.exceptions import UpdateFinishedTrialError

        # Another process, such as the dashboard, may have ended the trial already; its result stays.
        with contextlib.suppress(UpdateFinishedTrialError):
            for key, fact in facts.items():
                # An abandoned trial is a FrozenTrial, for which Optuna has no public way to write attributes.
                self.study._storage.set_trial_user_attr(trial._trial_id, key, fact)
            self.study.tell(trial.number, value, state, skip_if_finished=True)


def counted(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials count towards the target: the running ones and those that were not interrupted."""
    from optuna.trial import TrialState

    return sum(trial.state != TrialState.WAITING and trial.user_attrs.get(REASON) not in UNCOUNTED for trial in trials)


def _this_worker() -> str:
    """Return the machine and process of this worker."""
    return f"{platform.node()}:{os.getpid()}"


def _is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a trial is running whose worker, on this machine, is not."""
    from optuna.trial import TrialState

    if trial.state != TrialState.RUNNING:
        return False
    node, _, pid = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
    if node != platform.node() or not pid.isdecimal():
        return False
    # This process has not started a trial yet, so a trial with its process id is from before a reboot.
    return int(pid) == os.getpid() or not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
