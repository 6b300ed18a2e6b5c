"""Patience: how calls to a storage are repeated during an outage, and what is reported of it."""

import threading
from itertools import pairwise

import optuna
import pytest

from dropopt.study.store import patient
from dropopt.study.store.errors import StorageError
from dropopt.study.store.patient import Guard, Patience


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        """The time in seconds."""
        return self.now

    def sleep(self, seconds):
        """Move the clock."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(patient, "time", made)
    return made


@pytest.mark.parametrize("share", [0.5, 1])
def test_the_pauses_between_tries_double_up_to_the_longest(clock, monkeypatch, share):
    """Each is shortened by up to a half at random. The last try is at the limit; without patience there is one."""
    monkeypatch.setattr(patient, "GLANCE", 99.0)
    monkeypatch.setattr(patient, "SAID_AFTER", 99.0)
    monkeypatch.setattr(patient.random, "uniform", lambda low, high: {0.5: low, 1: high}[share])
    tries = []

    def fail():
        tries.append(clock.now)
        raise OSError("no space left on device")

    with pytest.raises(StorageError, match=r"has been unreachable for \d s: no space left on device"):
        Patience(2.0, longest_pause=0.5).call(fail)
    pauses = [after - before for before, after in pairwise(tries)]
    expected = [share * pause for pause in (0.1, 0.2, 0.4, *[0.5] * 9)]
    assert pauses == pytest.approx(expected[: len(pauses)])
    assert tries[-2] < 2.0 <= tries[-1]
    tries.clear()
    with pytest.raises(StorageError):
        Patience(0.0).call(fail)
    assert len(tries) == 1


def test_a_server_that_does_not_answer_is_reported_once(monkeypatch):
    """And once more when it answers; when the patience is over, the call ends with an error."""
    monkeypatch.setattr(patient, "GLANCE", 0.005)
    monkeypatch.setattr(patient, "SAID_AFTER", 0.02)
    said, answered = [], threading.Event()

    def say(line):
        said.append(line)
        answered.set()

    guard = Guard(optuna.storages.InMemoryStorage(), Patience(9.0, say), None)
    assert guard.run(lambda storage: answered.wait(9))
    assert [line[:30] for line in said] == ["storage unreachable, waiting f", "storage answers again after 0 "]
    impatient = Guard(optuna.storages.InMemoryStorage(), Patience(0.05), None)
    for _ in range(2):
        with pytest.raises(StorageError, match="the storage has not answered for 0 s"):
            impatient.run(lambda storage: threading.Event().wait(0.5))


def test_a_file_that_is_removed_while_it_is_read_is_told_as_before(tmp_path):
    """Between the check of the file and the reading. Another missing file is an error of its own."""
    path = tmp_path / "s.log"
    path.touch()
    guard = Guard(optuna.storages.InMemoryStorage(), Patience(0.0), path)
    with pytest.raises(FileNotFoundError):
        guard.run(lambda _: (tmp_path / "other").read_text())
    with pytest.raises(StorageError, match=r"s\.log was removed or moved while the study ran"):
        guard.run(lambda _: (path.unlink(), path.read_text()))


def test_an_outage_is_reported_when_it_has_lasted_long_enough(clock, monkeypatch):
    """Also if the next try would be due later only; a shorter outage is not reported."""
    monkeypatch.setattr(patient, "SAID_AFTER", 0.35)
    monkeypatch.setattr(patient.random, "uniform", lambda low, high: high)
    for lasts, lines in ((0.15, 0), (0.5, 2)):
        said, end = [], clock.now + lasts

        def write(end=end):
            if clock.now < end:
                raise OSError("no space left on device")
            return "stored"

        patience = Patience(60.0, said.append)
        assert patience.call(write) == "stored"
        assert patience.outages == 1, "other workers may have missed their leases, whether it was reported or not"
        assert len(said) == lines, said
    assert said[0].startswith("storage unreachable, retrying for 60 s: no space left")
    assert said[1].startswith("storage reachable again after")
