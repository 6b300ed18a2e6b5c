"""The budget of a study: the number of trials that all workers may start together, and that is never exceeded.

A worker starts a trial while the trials so far use less than the budget. Two workers may do so at the same time, and
then one must give its trial back. A trial is *checked* once its worker has looked at the other trials after starting
it. If there are too many, the unchecked trials with the highest numbers are given back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from optuna.trial import FrozenTrial, TrialState

from dropopt.study.store.keys import CONTINUES, REASON, UNCOUNTED
from dropopt.study.store.lease import lease_of

#: Seconds to wait for other workers to decide whether they give a trial back, and seconds between two checks.
DECISION_PATIENCE, DECISION_PAUSE = 5.0, 0.05


class Decision(Enum):
    """What to do with a trial that has just started."""

    KEEP = "keep"
    GIVE_BACK = "give back"
    #: Another trial should be given back; wait until its worker has decided.
    WAIT = "wait"


def budget_used(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials use the budget: all that have started, except failed ones with a reason in ``UNCOUNTED``.

    A trial that continues a pruned one does not use it, because the pruned one does.
    """
    return sum(uses_budget(trial) for trial in trials)


def budget_spent(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials that have ended use the budget; see :func:`budget_used`."""
    return budget_used(trial for trial in trials if trial.state.is_finished())


def decide(trials: Sequence[FrozenTrial], number: int, target: int) -> Decision:
    """Decide whether the trial ``number``, which is not checked, is one too many."""
    excess = budget_used(trials) - target
    if excess <= 0 or CONTINUES in trials[number].user_attrs:
        return Decision.KEEP
    unchecked = sorted((trial.number for trial in trials if _is_unchecked(trial)), reverse=True)
    return Decision.GIVE_BACK if number in unchecked[:excess] or number not in unchecked else Decision.WAIT


def await_decision(read: Callable[[], Sequence[FrozenTrial]], number: int, target: int) -> Decision:
    """Decide about the trial ``number`` once other workers have decided about theirs, or have not for some time.

    Args:
        read: Returns the trials as they are stored now.
        number: The number of the trial.
        target: The number of trials that the study must not exceed.
    """
    end = time.monotonic() + DECISION_PATIENCE
    while True:
        decision = decide(read(), number, target)
        if decision != Decision.WAIT or time.monotonic() >= end:
            return decision
        time.sleep(DECISION_PAUSE)


def uses_budget(trial: FrozenTrial) -> bool:
    """Return whether a trial uses the budget; see :func:`budget_used`."""
    if CONTINUES in trial.user_attrs:
        return False
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get(REASON) not in UNCOUNTED
    return trial.state != TrialState.WAITING


def _is_unchecked(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and uses_budget(trial) and not lease_of(trial).get("count")
