"""Continuing a trial that was pruned, or ended by a limit, to its end: ``dropopt resume-trial``.

An ended trial of Optuna cannot change. A new trial with the same parameters and the same training seed continues it.
Its attribute ``continues`` is the number of the old one. It keeps the reports of the old one, is never pruned, and does
not count towards the number of trials.
"""

from __future__ import annotations

import sys
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.keys import CONTINUES, GIVEN_BACK, MESSAGE, OUT_OF_MEMORY, REASON, TIME_LIMIT, UNCOUNTED
from dropopt.study.store.lease import WorkerIdentity, describe, lease_of
from dropopt.study.store.queries import numbered
from dropopt.study.store.retries import enqueue_continuation, parameters
from dropopt.study.store.scale import Scale
from dropopt.study.store.search_ledger import SearchLedger

#: The reasons of failures that a higher limit, or more memory, may avoid.
LIMITS = (TIME_LIMIT, OUT_OF_MEMORY)


def latest(study: optuna.Study, number: int) -> FrozenTrial:
    """Return the last attempt to continue trial ``number``; the trial itself if there is none.

    Raises:
        ConfigError: There is no such trial, it cannot be continued, or it has been.
    """
    trial = _to_continue(study, number)
    last = next(reversed(_continuations(study, number)), trial)
    if last.state == TrialState.RUNNING:
        raise ConfigError(
            f"trial {last.number} is continuing trial {number} now, run by {describe(last)}{_heard(last)}; follow it "
            "with: dropopt status; if the worker is gone, dropopt worker takes the trial up"
        )
    if last.state == TrialState.COMPLETE:
        raise ConfigError(f"trial {last.number} has continued trial {number} already: {_result(study, last)}")
    return last


def enqueue(study: optuna.Study, number: int) -> FrozenTrial:
    """Enqueue the trial that continues trial ``number``, unless it is waiting already.

    Returns:
        The waiting trial.

    Raises:
        ConfigError: As :func:`latest`.
    """
    last = latest(study, number)
    if last.state != TrialState.WAITING:
        enqueue_continuation(study, numbered(study, number), last)
    return _waiting(study, number)[0]


def _heard(trial: FrozenTrial) -> str:
    """When the worker of a running trial renewed its lease last, by that worker's own clock."""
    time = lease_of(trial).get("time")
    if not isinstance(time, int | float):
        return ""
    return f", last heard from at {datetime.fromtimestamp(time).astimezone():%Y-%m-%d %H:%M:%S}"


def may_be_continued(trial: FrozenTrial) -> bool:
    """Whether a trial was pruned, or ended by a limit."""
    by_limit = trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) in LIMITS
    return by_limit or trial.state == TrialState.PRUNED


def last_attempt(study: optuna.Study, number: int) -> FrozenTrial | None:
    """Return the last trial that has continued trial ``number``; None if none has begun."""
    begun = [trial for trial in _continuations(study, number) if trial.state != TrialState.WAITING]
    return begun[-1] if begun else None


class Continuation(SearchLedger):
    """The ledger of a session that runs one continuation, and no other trial.

    The continuation is enqueued at the moment at which it starts. A session that cannot begin leaves none that waits,
    which another worker would train unasked. One that has begun is run again after an interruption, as any trial.

    Args:
        study: The study, with its sampler and pruner.
        space: The search space.
        base: The configuration that all trials share.
        seed: The seed of the study.
        classes: The number of classes of the data.
        worker: The worker that this ledger belongs to.
        number: The number of the trial that is continued.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        base: RunConfig,
        seed: int,
        classes: int,
        worker: WorkerIdentity,
        number: int,
    ) -> None:
        super().__init__(study, space, base, seed, classes, worker)
        self._number = number
        self._begun = False

    def wants(self, target: int) -> bool:
        """Whether the continuation has not begun, or is to run again."""
        return not self._begun or bool(_waiting(self.study, self._number))

    def ask(self, target: int | None = None) -> tuple[optuna.Trial, RunConfig | None] | None:
        """Start the continuation. The budget does not limit it; a duplicate is given back."""
        return super().ask(sys.maxsize)

    def others_running(self) -> int:
        """Return 0: the session does not wait for other trials."""
        return 0

    def _take(self) -> optuna.Trial:
        waiting = enqueue(self.study, self._number)
        if not self.study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
            raise ConfigError(f"another worker has just started to continue trial {self._number}")
        self._begun = True
        return optuna.trial.Trial(self.study, waiting._trial_id)


def _to_continue(study: optuna.Study, number: int) -> FrozenTrial:
    """Return trial ``number``; raises :class:`ConfigError` if it cannot be continued."""
    trial = numbered(study, number)
    reason = trial.user_attrs.get(REASON)
    if may_be_continued(trial):
        if not parameters(trial):
            raise ConfigError(f"trial {number} has no parameters; it cannot be continued")
        return trial
    if trial.state == TrialState.COMPLETE:
        result = _result(study, trial)
        raise ConfigError(f"trial {number} is complete: {result}; only a pruned trial can be continued")
    if trial.state in (TrialState.RUNNING, TrialState.WAITING) or reason in UNCOUNTED:
        raise ConfigError(f"trial {number} is run by dropopt run and dropopt worker; type the command of the study")
    raise ConfigError(f"trial {number} failed and cannot be continued: {reason}: {trial.user_attrs.get(MESSAGE, '')}")


def _result(study: optuna.Study, trial: FrozenTrial) -> str:
    """The value of a complete trial as people read it, with its name."""
    scale = Scale.of(study)
    return f"{scale.name} {scale.text(trial.value)}"


def _continuations(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """Return the trials that continue trial ``number``, without those that two commands at one time have doubled."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(CONTINUES) == number]
    return [trial for trial in found if trial.user_attrs.get(REASON) != GIVEN_BACK]


def _waiting(study: optuna.Study, number: int) -> list[FrozenTrial]:
    return [trial for trial in _continuations(study, number) if trial.state == TrialState.WAITING]
