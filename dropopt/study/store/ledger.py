"""A trial's life in the storage: asked for, configured, reported on, and ended with what is to be known.

What is minimised is validation loss smoothed over epochs; accuracy stands beside it. Everything that a
person or a sampler may want later is written on the trial before it ends, never on the study: attributes
of a study are overwritten by whoever comes last.
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
from dropopt.study.store.keys import ABANDONED, ACCURACY, CONFIG, MESSAGE, REASON, SEED, TRACE, UNCOUNTED, WORKER

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


#: Dashboards show messages in a table cell.
MESSAGE_CHARACTERS = 500

_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


#: Training seeds of trials have so many bits.
SEED_BITS = 31


class Ledger:
    """What happens to one study's trials."""

    def __init__(self, study: optuna.Study, space: Space, base: RunConfig, seed: int, classes: int) -> None:
        self.study = study
        self.space = space
        self.base = base
        self.seed = seed
        self.classes = classes

    def ask(self) -> tuple[optuna.Trial, RunConfig | None]:
        """The next trial and its configuration; None when it is not a legal one, which fails the trial.

        Every trial has its own training seed, from the study's seed and its number: the luck of one set
        of initial weights then favours no configuration for a whole study. The split of the data is the
        same for all.
        """
        trial = self._new_trial()
        try:
            run = self.space.suggest(trial, self.classes, self.base)
        except ConfigError as error:
            self.fail(trial, "ConfigError", str(error))
            return trial, None
        except BaseException as error:
            if isinstance(error, ValueError) and self._enqueued(trial):
                self.fail(trial, "ValueError", f"it was enqueued with a value that the space lacks: {error}")
                return trial, None
            self.fail(trial, ABANDONED, f"the sampler failed: {error!r}")
            raise
        seed = derived_seed(self.seed, "train", trial.number, bits=SEED_BITS)
        run = run.model_copy(update={"train": run.train.model_copy(update={"seed": seed})})
        trial.set_user_attr(SEED, seed)
        trial.set_user_attr(CONFIG, run.model_dump(mode="json"))
        return trial, run

    def _new_trial(self) -> optuna.Trial:
        from optuna.trial import TrialState

        before = len(self.study.get_trials(deepcopy=False))
        try:
            trial = self.study.ask()
        except BaseException as error:
            # The trial exists before the sampler is asked; if that fails, nobody else would end it.
            for orphan in self.study.get_trials(deepcopy=False)[before:]:
                if orphan.state == TrialState.RUNNING and WORKER not in orphan.user_attrs:
                    self.fail(orphan, ABANDONED, f"the sampler failed: {error!r}")
            raise
        trial.set_user_attr(WORKER, stamp())
        return trial

    def _enqueued(self, trial: optuna.Trial) -> bool:
        """Whether somebody gave its values, here or on the dashboard."""
        return "fixed_params" in self.study._storage.get_trial(trial._trial_id).system_attrs

    def report(self, trial: optuna.Trial, report: Mapping[str, Any]) -> bool:
        """Store an epoch's smoothed loss; whether the trial should be pruned now."""
        trial.report(report["smoothed_loss"], report["epoch"])
        # A trial that has reached its last epoch has cost what it costs: its result is worth more.
        return report["epoch"] < report["epochs"] and trial.should_prune()

    def complete(self, trial: optuna.Trial, result: Mapping[str, Any]) -> str:
        """End a trial with its result; returns why it failed, if its value is no finite number."""
        value = float(result["smoothed_loss"])
        if not math.isfinite(value):
            return self.fail(trial, "NotFinite", f"its validation loss ended at {value}")
        names = ("best_val_loss", "best_epoch", "seconds")
        facts = {ACCURACY: result["best_val_accuracy"], **{name: result[name] for name in names}}
        self._end(trial, facts, value=value)
        return ""

    def prune(self, trial: optuna.Trial, report: Mapping[str, Any]) -> None:
        """End a trial that is behind; its value is the last one it reported."""
        self._end(trial, {ACCURACY: report["val_accuracy"], "seconds": report["seconds"]}, pruned=True)

    def fail(self, trial: optuna.Trial | FrozenTrial, error: str, message: str, trace: str = "") -> str:
        """End a trial that went wrong, with class, message and the end of the traceback; returns why."""
        cause = "out of memory" if error in _OUT_OF_MEMORY else error
        facts = {REASON: cause, MESSAGE: message[:MESSAGE_CHARACTERS], TRACE: trace}
        self._end(trial, {name: value for name, value in facts.items() if value})
        return cause

    def fail_abandoned(self) -> int:
        """End the trials that a worker on this machine left behind when it was killed; how many."""
        abandoned = [trial for trial in self.study.get_trials(deepcopy=False) if _is_abandoned(trial)]
        for trial in abandoned:
            self.fail(trial, ABANDONED, f"its worker ({trial.user_attrs[WORKER]}) has gone")
        return len(abandoned)

    def _end(
        self,
        trial: optuna.Trial | FrozenTrial,
        facts: Mapping[str, Any],
        *,
        value: float | None = None,
        pruned: bool = False,
    ) -> None:
        """Write what is to be known, then the state: a finished trial takes no attributes."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state = TrialState.PRUNED if pruned else TrialState.FAIL if value is None else TrialState.COMPLETE
        # Someone else may have ended it meanwhile (from the dashboard, say); the first word counts.
        with contextlib.suppress(UpdateFinishedTrialError):
            for name, fact in facts.items():
                self.study._storage.set_trial_user_attr(trial._trial_id, name, fact)
            self.study.tell(trial.number, value, state, skip_if_finished=True)


def counted(trials: Iterable[FrozenTrial]) -> int:
    """How many trials count towards a study's target: those that ended by themselves and those that run."""
    from optuna.trial import TrialState

    return sum(trial.state != TrialState.WAITING and trial.user_attrs.get(REASON) not in UNCOUNTED for trial in trials)


def stamp() -> str:
    """This worker: its machine and process."""
    return f"{platform.node()}:{os.getpid()}"


def _is_abandoned(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    if trial.state != TrialState.RUNNING:
        return False
    node, _, pid = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
    if node != platform.node() or not pid.isdecimal():
        return False
    # Called before this process asks for a trial: a trial with its own number is another's, before a reboot.
    return int(pid) == os.getpid() or not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
