"""Retries: trials that ended without a result through no fault of their own run again with the same parameters.

The chain is stored. A trial that is to run again has ``retry``; the trial that replaces it has ``retry_of`` (the number
of the first attempt), ``previous`` (the number of the last one) and ``attempt``. A worker may die after it has ended
a trial and before it has enqueued the replacement. Whoever sees a trial with ``retry`` that no other trial names as
``previous`` enqueues it. If two workers do so at the same time, the replacement with the lower number runs and the
other one is given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dropopt.study.store.keys import ABANDONED, ANCHOR, ATTEMPT, PREVIOUS, REASON, RETRY, RETRY_OF, SOURCE

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: The number of times that a configuration is started if its worker dies each time.
MAX_ATTEMPTS = 3


def attempt(trial: FrozenTrial) -> int:
    """Return which attempt at its configuration ``trial`` is, from 1."""
    return int(trial.user_attrs.get(ATTEMPT, 1))


def root(trial: FrozenTrial) -> int:
    """Return the number of the first attempt at the configuration of ``trial``."""
    return int(trial.user_attrs.get(RETRY_OF, trial.number))


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that ``trial`` has or was enqueued with."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def may_run_again(trial: FrozenTrial, reason: str) -> bool:
    """Whether a trial that ends for ``reason`` is enqueued again."""
    return bool(parameters(trial)) and (reason != ABANDONED or attempt(trial) < MAX_ATTEMPTS)


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue the parameters of ``trial``, which has ended.

    The replacement has its reports too: if a checkpoint is found, training continues after them; otherwise they are
    replaced by new ones.
    """
    import optuna

    abandoned = trial.user_attrs.get(REASON) == ABANDONED
    chain = {RETRY_OF: root(trial), PREVIOUS: trial.number, ATTEMPT: attempt(trial) + int(abandoned)}
    kept = {key: trial.user_attrs[key] for key in (SOURCE, ANCHOR) if key in trial.user_attrs}
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            system_attrs={"fixed_params": parameters(trial)},
            user_attrs={**kept, **chain},
            intermediate_values=trial.intermediate_values,
        )
    )


def without_replacement(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that are to run again and were not enqueued yet."""
    from optuna.trial import TrialState

    replaced = {trial.user_attrs.get(PREVIOUS) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL and trial.user_attrs.get(RETRY) and trial.number not in replaced
    ]


def is_duplicate(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> bool:
    """Whether a trial with a lower number replaces the same trial."""
    previous = trial.user_attrs.get(PREVIOUS)
    return previous is not None and any(
        other.user_attrs.get(PREVIOUS) == previous and other.number < trial.number for other in trials
    )
