"""Retries: trials whose worker stopped or died run again with the same parameters.

The chain is stored. A trial that is to run again has ``retry``; the trial that replaces it has ``retry_of`` (the number
of the first attempt), ``previous`` (the number of the attempt before it) and ``attempt``. A worker may die after it has
ended a trial and before it has enqueued the replacement. Any worker that finds a trial with ``retry`` that no other
trial names as ``previous`` enqueues it. If two workers do so at the same time, the replacement with the lower number
runs and the other one is given back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dropopt.study.store import keys
from dropopt.study.store.anchor_names import is_control

#: The number of times that a configuration is started if its worker dies each time.
MAX_ATTEMPTS = 3

#: Optuna's system attribute for the first trial of a chain of retries, which the sampler of the blend counts as one
#: trial. A continuation names the trial that it continues.
FAILED_TRIAL = "failed_trial"

#: The attributes that a trial takes over from the one that it runs again or continues.
_KEPT = (keys.SOURCE, keys.PORTFOLIO, keys.ANCHOR, keys.SEED)


def attempt(trial: FrozenTrial) -> int:
    """Return which attempt at its configuration ``trial`` is, from 1."""
    return int(trial.user_attrs.get(keys.ATTEMPT, 1))


def root(trial: FrozenTrial) -> int:
    """Return the number of the first attempt at the configuration of ``trial``."""
    return int(trial.user_attrs.get(keys.RETRY_OF, trial.number))


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that ``trial`` has or was enqueued with."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def may_run_again(trial: FrozenTrial, reason: str) -> bool:
    """Whether a trial that ends for ``reason`` may be enqueued again."""
    return bool(parameters(trial)) and (reason != keys.ABANDONED or attempt(trial) < MAX_ATTEMPTS)


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue the parameters of ``trial``, which has ended.

    The replacement keeps the reports of ``trial``. If there is a checkpoint, training continues after them; otherwise
    new reports replace them.
    """
    abandoned = trial.user_attrs.get(keys.REASON) == keys.ABANDONED
    chain = {keys.RETRY_OF: root(trial), keys.PREVIOUS: trial.number, keys.ATTEMPT: attempt(trial) + int(abandoned)}
    kept = {key: trial.user_attrs[key] for key in (*_KEPT, keys.CONTINUES) if key in trial.user_attrs}
    first = {FAILED_TRIAL: trial.system_attrs[FAILED_TRIAL]} if FAILED_TRIAL in trial.system_attrs else {}
    _enqueue(study, trial, kept | chain, first)


def enqueue_continuation(study: optuna.Study, trial: FrozenTrial, latest: FrozenTrial) -> None:
    """Enqueue the parameters of ``trial``, which was pruned or ended by a limit, to be trained to the end.

    Args:
        study: The study.
        trial: The trial.
        latest: The last attempt to continue it; ``trial`` itself if there is none.
    """
    facts = {keys.CONTINUES: trial.number, keys.RETRY_OF: root(trial), keys.PREVIOUS: latest.number}
    kept = {key: trial.user_attrs[key] for key in _KEPT if key in trial.user_attrs}
    _enqueue(study, latest, kept | facts, {FAILED_TRIAL: trial.number})


def _enqueue(study: optuna.Study, trial: FrozenTrial, facts: dict[str, Any], system: dict[str, Any]) -> None:
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            system_attrs={"fixed_params": parameters(trial)} | system,
            user_attrs=facts,
            intermediate_values=trial.intermediate_values,
        )
    )


def is_to_run_again(trial: FrozenTrial) -> bool:
    """Whether a trial has ended without a result, and should be enqueued again."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(keys.RETRY))


def without_replacement(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that should run again and have not been enqueued yet."""
    replaced = {trial.user_attrs.get(keys.PREVIOUS) for trial in trials}
    return [trial for trial in trials if is_to_run_again(trial) and trial.number not in replaced]


def unfinished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that wait, run, or are to run again."""
    return [*without_replacement(trials), *(trial for trial in trials if not trial.state.is_finished())]


class LostRetries:
    """Finds trials whose worker has ended them, but died before it enqueued them again.

    Args:
        interval: Seconds between two observations. A trial is due after a random time of one to two intervals, so that
            workers that find the same trial do not enqueue it at the same time.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[int, float] = {}

    def due(self, trials: Iterable[FrozenTrial], now: float) -> list[FrozenTrial]:
        """Return those ``trials``, all of which have no replacement, that should be enqueued again ``now``."""
        found = {trial.number: trial for trial in trials}
        self._due = {number: self._due.get(number, now + random.uniform(1, 2) * self._interval) for number in found}
        return [found[number] for number, time in self._due.items() if now >= time]


def is_duplicate(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> bool:
    """Whether a trial with a lower number replaces the same trial, or is the same control."""

    def replaced(one: FrozenTrial) -> tuple[int | None, str]:
        return one.user_attrs.get(keys.PREVIOUS), one.user_attrs.get(keys.ANCHOR, "")

    previous, name = replaced(trial)
    return (previous is not None or is_control(name)) and any(
        replaced(other) == (previous, name) and other.number < trial.number for other in trials
    )
