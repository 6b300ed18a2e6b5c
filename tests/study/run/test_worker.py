"""The worker with an executor that starts no process: it uses only the protocol."""

from collections import deque
from unittest.mock import Mock

import optuna
import pytest

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.run.errors import StudyError
from dropopt.study.run.executor import Died, Event
from dropopt.study.run.failures import (
    FIRST_FAILURES,
    FIRST_STARTS,
    LATER_FAILURES,
    LATER_STARTS,
    FailureCounter,
)
from dropopt.study.run.messages import Done, Prepare, Ready, Report, Stop, Train
from dropopt.study.run.worker import Listener, Worker
from dropopt.study.store.search_ledger import SearchLedger


class Inline:
    """An executor of ``size`` slots that answers every message at once; each trainer dies in its second trial."""

    def __init__(self, size):
        self.size = size
        self.killed = False
        self._trained = [0] * size
        self._events = deque()

    def send(self, slot, message):
        """Queue the trainer's answers."""
        if isinstance(message, Prepare):
            self._events.append(Event(slot, Ready(10, {"train": "a"}, [])))
        elif isinstance(message, Train):
            self._trained[slot] += 1
            loss = message.run.train.lr
            if self._trained[slot] == 2:
                self._events.append(Event(slot, Report(message.trial, 1, 2, loss, loss, 0.5, loss, loss)))
                self._events.append(Event(slot, Died("it was switched off")))
                return
            for epoch in (1, 2):
                self._events.append(Event(slot, Report(message.trial, epoch, 2, loss, loss, 0.5, loss, loss)))
            self._events.append(Event(slot, Done(message.trial, loss, 1, loss, 0.5, 0.1)))
        else:
            assert isinstance(message, Stop)

    def wait(self, timeout):
        """Return the next event without waiting."""
        return self._events.popleft() if self._events else None

    def wake(self):
        """Do nothing, because :meth:`wait` returns at once."""

    def replace(self, slot):
        """Start the count of trials again."""
        self._trained[slot] = 0

    def kill(self):
        """Record the call."""
        self.killed = True


def run(executor, n_trials, listener=None, **options):
    """Run a study in memory and return its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space.load("no_dropout")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner())
    base = space.base(RunConfig())
    ledger = SearchLedger(study, space, base, seed=0, classes=10)
    listener = listener or Mock(spec=Listener)
    Worker(executor, lambda ready: ledger, listener, base=base, n_trials=n_trials, **options).run()
    return study.trials


def test_the_worker_runs_on_any_executor():
    """Trials run and are recorded; those whose trainer died continue in a new one; the executor is ended."""
    executor, listener = Inline(3), Mock(spec=Listener)
    trials = run(executor, 12, listener)
    assert executor.killed
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 12
    assert all(sorted(trial.intermediate_values) == [1, 2] for trial in trials)
    assert listener.restarted.call_count > 0
    reason = "it was switched off; it begins again, because no --checkpoints DIR is given"
    assert {call.args[2] for call in listener.restarted.call_args_list} == {reason}
    # An epoch that the new trainer repeats is not reported again.
    assert listener.reported.call_count == 2 * 12


def test_failures_with_the_same_cause_end_a_study():
    """A different cause or a success starts the count again; after a success the limit is higher."""
    counter = FailureCounter()
    for cause in ["A"] * (FIRST_FAILURES - 1) + ["B"] * (FIRST_FAILURES - 1):
        counter.trial_failed(cause, "bad")
    with pytest.raises(StudyError, match=f"{FIRST_FAILURES} trials in a row failed with the same error: B: bad"):
        counter.trial_failed("B", "bad")
    counter.trial_succeeded()
    for _ in range(LATER_FAILURES - 1):
        counter.trial_failed("B", "bad")
    with pytest.raises(StudyError, match=f"{LATER_FAILURES} trials"):
        counter.trial_failed("B", "bad")


def test_trainers_that_die_before_they_are_ready_end_a_study():
    """The limit is for trainers in a row, and higher once one has been ready: then the cause is outside."""
    never = FailureCounter()
    for _ in range(FIRST_STARTS - 1):
        never.trainer_died_early("no memory")
    with pytest.raises(StudyError, match="child processes die"):
        never.trainer_died_early("no memory")
    counter = FailureCounter()
    for limit in (FIRST_STARTS, LATER_STARTS):
        for _ in range(limit - 1):
            counter.trainer_died_early("no memory")
        counter.trainer_started()
    for _ in range(LATER_STARTS - 1):
        counter.trainer_died_early("no memory")
    with pytest.raises(StudyError, match="child processes die before they can train: no memory"):
        counter.trainer_died_early("no memory")
