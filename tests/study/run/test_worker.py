"""The worker with an executor that starts no process: it uses nothing but the protocol."""

from collections import deque
from unittest.mock import Mock

import optuna
import pytest

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.run.errors import StudyError
from dropopt.study.run.executor import Died, Event
from dropopt.study.run.failures import FAILED_STARTS, FIRST_FAILURES, LATER_FAILURES, FailureCounter
from dropopt.study.run.messages import Done, Prepare, Ready, Report, Stop, Train
from dropopt.study.run.worker import Listener, Worker
from dropopt.study.store.ledger import Ledger


class Inline:
    """An executor that answers every message at once; each trainer dies in its second trial."""

    def __init__(self, size, fingerprints=("a",)):
        self.size = size
        self.killed = False
        self._fingerprints = fingerprints
        self._trained = [0] * size
        self._events = deque()

    def send(self, slot, message):
        """Queue the trainer's answers."""
        if isinstance(message, Prepare):
            fingerprint = {"train": self._fingerprints[slot % len(self._fingerprints)]}
            self._events.append(Event(slot, Ready(10, fingerprint, [])))
        elif isinstance(message, Train):
            self._trained[slot] += 1
            if self._trained[slot] == 2:
                self._events.append(Event(slot, Died("it was switched off")))
                return
            loss = message.run.train.lr
            self._events.append(Event(slot, Report(message.trial, 1, 1, loss, loss, 0.5, loss)))
            self._events.append(Event(slot, Done(message.trial, loss, 1, loss, 0.5, 0.1)))
        else:
            assert isinstance(message, Stop)

    def wait(self, timeout):
        """Return the next event without waiting."""
        return self._events.popleft() if self._events else None

    def wake(self):
        """There is no wait to end."""

    def replace(self, slot):
        """Start the count of trials again."""
        self._trained[slot] = 0

    def kill(self):
        """Remember the call."""
        self.killed = True


def run(executor, n_trials):
    """Run a study in memory and return its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space.load("no_dropout")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    base = space.base(RunConfig())
    ledger = Ledger(study, space, base, seed=0, classes=10)
    Worker(executor, lambda ready: ledger, Mock(spec=Listener), base=base, n_trials=n_trials).run()
    return study.trials


def test_the_worker_runs_on_any_executor():
    """Trials run and are recorded, also those whose trainer died; the executor is ended."""
    executor = Inline(3)
    trials = run(executor, n_trials=12)
    assert executor.killed
    assert len(trials) == 12
    died = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
    assert 0 < len(died) < 12
    assert {trial.user_attrs["message"] for trial in died} == {"it was switched off"}


def test_data_that_differ_between_slots_are_an_error():
    """All trials of a study must use the same data."""
    with pytest.raises(ConfigError, match="the data differ between loads"):
        run(Inline(2, fingerprints=("a", "b")), n_trials=4)


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
    """The limit is for trainers in a row."""
    counter = FailureCounter()
    for _ in range(2):
        for _ in range(FAILED_STARTS - 1):
            counter.trainer_died_early("no memory")
        counter.trainer_started()
    for _ in range(FAILED_STARTS - 1):
        counter.trainer_died_early("no memory")
    with pytest.raises(StudyError, match="child processes die before they can train: no memory"):
        counter.trainer_died_early("no memory")
