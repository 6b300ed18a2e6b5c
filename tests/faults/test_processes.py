"""Processes that are stopped, killed, hang, flood or run out of memory: the study records it and continues.

Each test starts real processes and injects the fault from outside, or in the child process that trains.
"""

import os
import pty
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import fake_study
import pytest
from fake_study import trials
from optuna.trial import TrialState
from outside import SCRIPT, finish, reporting, start
from processes import alive, children, send, wait_until

from dropopt.study.run import memory

#: The seconds between two signals, and how many studies run at a time in that test.
PAUSES, AT_A_TIME = (0.0, 0.04, 0.1, 0.3), 2
#: Seconds in which a process must end at once, on a busy machine; a process that waits for another one never would.
AT_ONCE = 30


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A storage for a study that runs in this process."""
    monkeypatch.setenv("FAKE_SECONDS", "0.01")
    return str(tmp_path / "study.log")


@pytest.fixture
def database(tmp_path):
    """A storage for a study that runs in a process of its own."""
    return f"sqlite:///{tmp_path}/s.db"


def begin(storage, *arguments, **options):
    """Start a study in a process and wait until a trial has reported; return the process and its children."""
    process = start(storage, *arguments, **options)
    wait_until(lambda: reporting(storage))
    return process, children(process.pid)


def all_ended(storage):
    return all(trial.state.is_finished() for trial in trials(storage))


class TestSignals:
    """The first signal ends a study gracefully, the second one at once."""

    def test_two_signals_end_a_study(self, tmp_path):
        """Two signals within 0.3 s, repeated: the process ends, and so do its children and its trials."""
        for first in range(0, len(PAUSES), AT_A_TIME):
            pauses = PAUSES[first : first + AT_A_TIME]
            storages = [f"sqlite:///{tmp_path}/{first + number}.db" for number in range(len(pauses))]
            begun = [start(storage, n_trials=1000) for storage in storages]
            for storage, process, pause in zip(storages, begun, pauses, strict=True):
                wait_until(lambda storage=storage: reporting(storage))
                pids = children(process.pid)
                process.send_signal(signal.SIGINT)
                time.sleep(pause)
                process.send_signal(signal.SIGINT)
                code, out = finish(process, AT_ONCE)
                # A second signal while the interpreter ends gives -2; a shell shows both as 130.
                assert code in (128 + signal.SIGINT, -signal.SIGINT), out
                assert "Traceback" not in out
                wait_until(lambda pids=pids: not alive(pids), AT_ONCE)
                assert all_ended(storage), out

    def test_the_second_signal_ends_a_study_whose_storage_does_not_answer(self, database, tmp_path, monkeypatch):
        """A locked database delays the end after the first signal. The second one ends the process at once."""
        process, pids = begin(database, n_trials=2)
        with closing(sqlite3.connect(tmp_path / "s.db", timeout=60)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert finish(process, AT_ONCE)[0] == 128 + signal.SIGTERM
            connection.rollback()
        wait_until(lambda: not alive(pids), AT_ONCE)
        monkeypatch.setenv("FAKE_SECONDS", "0")
        assert fake_study.run(database, n_jobs=1, n_trials=2) == 0
        assert all_ended(database)

    def test_a_signal_to_all_processes_interrupts_trials(self, database):
        """A shutdown sends SIGTERM to the children too, here before it reaches their owner: no trial fails."""
        process, pids = begin(database, 2, n_trials=4)
        send(pids, signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        code, out = finish(process, AT_ONCE)
        assert code == 128 + signal.SIGTERM, out
        assert all_ended(database)
        failed = [trial for trial in trials(database) if trial.state == TrialState.FAIL]
        assert {trial.user_attrs["reason"] for trial in failed} == {"interrupted"}

    def test_a_study_under_nohup_outlives_its_terminal(self, database):
        """SIGHUP stays ignored if it was ignored when the program started."""
        process, _ = begin(database, n_trials=2, hangup=signal.SIG_IGN)
        process.send_signal(signal.SIGHUP)
        code, out = finish(process)
        assert code == 0, out
        assert all_ended(database)

    def test_a_closed_terminal_ends_a_study_in_good_order(self, database):
        """The kernel sends SIGHUP, and writing to the terminal fails from then on."""
        pid, terminal = pty.fork()
        if not pid:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.environ |= {"FAKE_SECONDS": "0.2", "OPTUNA_STORAGE": database}
            os.execv(sys.executable, [sys.executable, str(SCRIPT), '{"n_trials": 4}', "1"])
        while not reporting(database):
            os.read(terminal, 65536)  # otherwise the buffer of the terminal fills up
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
        assert all_ended(database)


def test_a_frozen_process_is_ended(database):
    """A child that was stopped with SIGSTOP is ended at the time limit of its trial, and the next trial runs."""
    process, pids = begin(database, n_trials=2, trial_timeout=3, pruner="none")
    send(pids, signal.SIGSTOP)
    code, out = finish(process)
    assert code == 0, out
    assert [trial.user_attrs.get("reason") for trial in trials(database)] == ["time limit", None]


class TestMemory:
    """Running out of memory is contained in one trial."""

    def test_a_flood_on_standard_error_is_not_kept(self, storage, monkeypatch):
        """300 MB on one line: the owner uses little memory, and the trial's own error is recorded."""
        monkeypatch.setenv("FAKE_FAULT", "flood:always")
        before = peak()
        fake_study.run(storage, n_jobs=1, n_trials=1)
        assert peak() - before < 100_000_000
        assert [trial.user_attrs["message"] for trial in trials(storage)] == ["after the flood"]

    @pytest.mark.skipif(not memory.can_measure(), reason="needs /proc")
    def test_a_trial_over_its_memory_limit_fails(self, storage, monkeypatch):
        """It is not tried again, and the next trial runs."""
        monkeypatch.setenv("FAKE_FAULT", "hog")
        assert fake_study.run(storage, n_trials=4, trial_memory=400) == 0
        check(storage, 4, "out of memory", "its process used more than 400 MB of memory")

    @pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK), reason="needs control groups")
    def test_the_kernel_kills_a_trial_in_a_control_group(self, database, monkeypatch):
        """The study and its child share a limit. The child is killed, and the study goes on."""
        group = Path("/sys/fs/cgroup/memory", f"dropopt-{os.getpid()}")
        monkeypatch.setenv("FAKE_FAULT", "hog")
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text("900000000")
            process = start(database, seconds=0.01, n_trials=4, group=group / "cgroup.procs")
            code, out = finish(process, 120)
        finally:
            group.rmdir()
        assert code == 0, out
        check(database, 4, "out of memory")


def check(storage, count, *facts):
    """Check that all trials have ended, and that those with high learning rates failed with this reason and message."""
    assert all_ended(storage)
    assert len(trials(storage)) == count
    failed = [trial for trial in trials(storage) if trial.state == TrialState.FAIL]
    assert 0 < len(failed) < count
    for key, fact in zip(("reason", "message"), facts, strict=False):
        assert {trial.user_attrs[key] for trial in failed} == {fact}


def peak():
    """Return the largest number of bytes of memory that this process has used so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
