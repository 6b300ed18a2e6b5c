"""Patience: how calls to a storage are repeated during an outage, and what is reported of it."""

import sqlite3
import threading
from itertools import pairwise

import optuna
import pytest
import sqlalchemy.exc as sql
from optuna.exceptions import StorageInternalError

from dropopt.study.store import patient
from dropopt.study.store.errors import StorageError
from dropopt.study.store.patient import Guard, Patience, is_outage


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


def wrapped(error):
    """An error of a commit, as Optuna raises it."""
    found = StorageInternalError("commit")
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OSError("disk full"), True),
        (ConnectionRefusedError(), True),
        (FileNotFoundError(), False),
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.DatabaseError("odd"), False),
        (sql.OperationalError("", {}, Exception("server closed the connection")), True),
        (sql.InterfaceError("", {}, Exception("x")), True),
        (sql.InternalError("", {}, Exception("x")), True),
        (sql.TimeoutError(), True),
        (sql.ProgrammingError("", {}, Exception("syntax")), False),
        (sql.ProgrammingError("", {}, Exception("gone"), connection_invalidated=True), True),
        (wrapped(sql.OperationalError("", {}, Exception("x"))), True),
        (wrapped(ValueError("x")), False),
        (wrapped(None), False),
        (ValueError("x"), False),
        *[
            (sql.OperationalError("", {}, Exception(f"it {words} now")), False)
            for words in ("malformed", "not a database", "no such table", "no such column", "authentication failed")
        ],
        (sql.OperationalError("", {}, Exception('database "x" does not exist')), False),
        (sql.OperationalError("", {}, Exception("permission denied for table")), False),
    ],
)
def test_an_error_that_may_go_away_by_itself_is_an_outage(error, outage):
    """Of the network, the disk or a server that restarts; not a mistake, and no damage."""
    assert is_outage(error) == outage


def test_a_study_that_was_deleted_ends_every_later_call():
    """A KeyError means that, except where what is asked for may not exist."""
    guard = Guard(optuna.storages.InMemoryStorage(), Patience(0.0), None)
    for _ in range(2):
        with pytest.raises(KeyError):
            guard.run(lambda storage: storage.get_study_name_from_id(7), may_miss=True)
    assert guard.run(lambda storage: storage.get_all_studies()) == []
    for call in (lambda storage: storage.get_study_name_from_id(7), lambda storage: storage.get_all_studies()):
        with pytest.raises(
            StorageError, match=r"^the study was deleted from the storage while it ran; its results cannot"
        ):
            guard.run(call)


def test_a_file_that_was_replaced_is_not_written_to(tmp_path):
    """Nor one whose folder was moved away."""
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "s.log"
    path.touch()
    for change, line in (
        (
            lambda: path.rename(tmp_path / "old") and path.touch(),
            r"s\.log was replaced by another file while the study r",
        ),
        (
            lambda: (tmp_path / "a").rename(tmp_path / "b") and (tmp_path / "a").touch(),
            r"s\.log was removed or moved wh",
        ),
    ):
        guard = Guard(optuna.storages.InMemoryStorage(), Patience(0.0), path)
        assert guard.run(lambda _: 7) == 7
        change()
        with pytest.raises(StorageError, match=line):
            guard.run(lambda _: pytest.fail("it was called"))


@pytest.mark.parametrize(("seconds", "hurried", "limit"), [(120.0, False, 120.0), (120.0, True, 5.0), (2.0, True, 2.0)])
def test_after_a_signal_a_storage_is_waited_for_five_seconds_at_most(seconds, hurried, limit):
    """So that Ctrl-C takes effect soon."""
    patience = Patience(seconds)
    patience.hurried = lambda: hurried
    assert patience.limit() == limit
    assert (Patience().limit(), Patience()._longest_pause) == (120.0, 4.0)
