"""The worker with an executor that starts no process: it uses only the protocol."""

import time
from collections import deque
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest

from dropopt.config import ConfigError, RunConfig
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
from dropopt.study.run.messages import Done, Failed, Prepare, Ready, Report, Stop, Train
from dropopt.study.run.running import MAX_DEATHS, Limits
from dropopt.study.run.worker import Listener, Worker
from dropopt.study.store.search_ledger import SearchLedger


class Inline:
    """An executor that answers every message at once; each trainer dies in its second trial.

    Args:
        size: The number of slots.
        fingerprints: The hash of the data, for each slot in turn.
        fatal: The numbers of the trials in which every trainer dies.
    """

    def __init__(self, size, fingerprints=("a",), fatal=()):
        self.size = size
        self.killed = False
        self.sent = []
        self._fingerprints = fingerprints
        self._fatal = fatal
        self._trained = [0] * size
        self._events = deque()

    def send(self, slot, message):
        """Queue the trainer's answers."""
        if isinstance(message, Prepare):
            fingerprint = {"train": self._fingerprints[slot % len(self._fingerprints)]}
            self._events.append(Event(slot, Ready(10, fingerprint, [])))
        elif isinstance(message, Train):
            self.sent.append(message)
            self._trained[slot] += 1
            loss = message.run.train.lr
            if self._trained[slot] == 2 or message.trial in self._fatal:
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


class Scripted(Inline):
    """An executor whose first trial completes with distinct numbers, and whose others fail in the given ways."""

    failures = (
        Failed(1, "ValueError", "too high", "net.py, line 3", "the trace"),
        Failed(2, "RuntimeError", "CUDA", "net.py, line 3", "the end", out_of_memory=True),
    )

    def send(self, slot, message):
        """Answer with the script."""
        if not isinstance(message, Train):
            super().send(slot, message)
        elif message.trial == 0:
            for epoch in (1, 2):
                self._events.append(Event(slot, Report(0, epoch, 2, 5.0, 6.0 + epoch, 0.25, 7.0, 8.0 + epoch)))
            self._events.append(Event(slot, Done(0, 0.5, 2, 0.75, 0.875, 12.5, {"val_ece": 0.125})))
        else:
            self._events.append(Event(slot, self.failures[message.trial - 1]))


def test_results_and_failures_are_stored_as_they_were_sent():
    """Values, scores and history of a trial; the reason, message and trace of a failure; the listener hears of both."""
    listener = Mock(spec=Listener)
    done, *failed = run(Scripted(1), 3, listener)
    facts = {"val_accuracy": 0.875, "best_val_loss": 0.75, "best_epoch": 2, "seconds": 12.5, "val_ece": 0.125}
    assert (done.value, done.intermediate_values) == (0.5, {1: 9.0, 2: 10.0})
    assert done.user_attrs.items() >= facts.items()
    assert "dropopt:history" in done.system_attrs
    stored = [{name: trial.user_attrs.get(name) for name in ("reason", "message", "trace")} for trial in failed]
    assert stored == [
        {"reason": "ValueError", "message": "too high", "trace": "the trace"},
        {"reason": "out of memory", "message": "CUDA", "trace": "the end"},
    ]
    assert [call.args[:2] for call in listener.ended.call_args_list] == [(0, 0), (0, 1), (0, 2)]
    assert [bool(call.args[2]) for call in listener.ended.call_args_list] == [False, True, True]
    assert [call.args[:2] for call in listener.reported.call_args_list] == [(0, 0)] * 2


class Writing(Inline):
    """An executor whose trainers write a checkpoint; the first trials fail as requested."""

    def __init__(self, failing=0):
        super().__init__(1)
        self._failing = failing

    def send(self, slot, message):
        """Write the checkpoint, then answer; every trainer lasts."""
        self._trained[slot] = 0
        if isinstance(message, Train):
            Path(message.checkpoint).parent.mkdir(exist_ok=True)
            Path(message.checkpoint).write_text("")
            if message.trial < self._failing:
                self._events.append(Event(slot, Failed(message.trial, "ValueError", "no", "", "")))
                return
        super().send(slot, message)


@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_of_trials_that_ended(tmp_path, keep):
    """Those of completed trials stay if requested, and those of failed trials do not."""
    run(Writing(failing=1), 3, checkpoints=tmp_path / "c", keep=keep)
    assert sorted(path.stem[-1] for path in tmp_path.rglob("*.pt")) == (["1", "2"] if keep else [])


class Slow(Inline):
    """An executor whose trainers never answer."""

    def send(self, slot, message):
        """Answer only that the data are loaded."""
        if not isinstance(message, Train):
            super().send(slot, message)

    def wait(self, timeout):
        """Let time pass."""
        time.sleep(0.002)
        return super().wait(timeout)


def test_a_trial_that_is_too_slow_fails():
    """Its trainer is replaced, and the next trial begins."""
    trials = run(Slow(1), 2, limits=Limits(trial_timeout=0.05))
    stored = [{name: trial.user_attrs.get(name) for name in ("reason", "message")} for trial in trials]
    assert stored == [{"reason": "time limit", "message": "it did not end within 0.05 s"}] * 2


def test_a_trial_whose_trainer_always_dies_fails(tmp_path):
    """It is continued from its checkpoint until the limit, then recorded as failed; the next trial runs."""
    executor = Inline(1, fatal=(1,))
    trials = run(executor, 3, checkpoints=tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["reason"] == "ProcessDied"
    assert trials[1].user_attrs["message"] == "it was switched off"
    attempts = [message for message in executor.sent if message.trial == 1]
    assert len(attempts) == MAX_DEATHS
    assert len({message.checkpoint for message in attempts}) == 1


class Shrinking(Inline):
    """A cluster that loses a node: the trainer of slot 1 dies in its second trial and is never replaced.

    The other trainers in the second half of the slots die before they are ready, all at the same time.
    """

    def __init__(self, size):
        super().__init__(size)
        self._lost = False
        self._starts = 0

    def send(self, slot, message):
        """Answer, unless the slot has no node."""
        if slot >= self.size // 2 and isinstance(message, Prepare):
            self._events.append(Event(slot, Died("its node has died", lost_machine=True)))
        elif not (slot == 1 and self._lost):
            super().send(slot, message)

    def replace(self, slot):
        """Find no node."""
        if slot == 1:
            self._lost = True
        self._trained[slot] = 0

    def wait(self, timeout):
        """Return the next event; a lost slot is asked to start only once, or the deaths would not end."""
        event = super().wait(timeout)
        if event is not None and event.slot >= self.size // 2:
            self._starts += 1
            return event if self._starts <= 2 * LATER_STARTS else None
        return event


def test_trials_move_away_from_a_slot_that_does_not_come_back(tmp_path):
    """The trial of a lost node continues in another slot, and lost nodes do not end the study."""
    listener = Mock(spec=Listener)
    trials = run(Shrinking(4), 6, listener, checkpoints=tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    assert (1, 0) in [call.args for call in listener.moved.call_args_list]


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
