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
import torch
from fake_study import trials
from optuna.trial import TrialState
from processes import SCRIPT, alive, children, running, send, start, stored, wait_until

from dropopt.study.run import memory, worker
from dropopt.study.run import running as limits

#: The seconds between two signals, and how many studies run at a time in that test.
PAUSES, AT_A_TIME = (0.0, 0.0, 0.04, 0.1, 0.2, 0.3), 3
#: Seconds in which a process must end at once, on a busy machine; a process that waits for another one never would.
AT_ONCE = 30


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A storage file in a temporary working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("FAKE_SECONDS", "0.01")
    return "study.log"


class TestSignals:
    """The first signal ends a study gracefully, the second one at once."""

    def test_two_signals_end_a_study(self, tmp_path):
        """Two signals within 0.3 s, repeated: the process ends, and so do its children and its trials."""
        for first in range(0, len(PAUSES), AT_A_TIME):
            pauses = PAUSES[first : first + AT_A_TIME]
            folders = [tmp_path / str(first + number) for number in range(len(pauses))]
            for folder in folders:
                folder.mkdir()
            begun = [start(folder, 1, n_trials=1000) for folder in folders]
            for folder, process, pause in zip(folders, begun, pauses, strict=True):
                wait_until(lambda folder=folder: running(folder))
                pids = children(process.pid)
                process.send_signal(signal.SIGINT)
                time.sleep(pause)
                process.send_signal(signal.SIGINT)
                out = process.communicate(timeout=AT_ONCE)[0]
                # A second signal while the interpreter ends gives -2; a shell shows both as 130.
                assert process.returncode in (128 + signal.SIGINT, -signal.SIGINT), out
                assert "Traceback" not in out
                wait_until(lambda pids=pids: not alive(pids), AT_ONCE)
                assert all(trial.state.is_finished() for trial in stored(folder)), out

    def test_the_second_signal_ends_a_study_whose_storage_does_not_answer(self, tmp_path, monkeypatch):
        """A locked database delays the end after the first signal. The second one ends the process at once."""
        process = start(tmp_path, 1, n_trials=2)
        wait_until(lambda: running(tmp_path))
        pids = children(process.pid)
        with closing(sqlite3.connect(tmp_path / "runs" / "dropopt.db", timeout=60)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=AT_ONCE)
            assert process.returncode == 128 + signal.SIGTERM
            connection.rollback()
        wait_until(lambda: not alive(pids), AT_ONCE)
        monkeypatch.setenv("FAKE_SECONDS", "0")
        assert fake_study.run(f"sqlite:///{tmp_path}/runs/dropopt.db", n_jobs=1, n_trials=2) == 0
        assert all(trial.state.is_finished() for trial in stored(tmp_path))

    def test_a_signal_to_all_processes_interrupts_trials(self, tmp_path):
        """A shutdown sends SIGTERM to the children too, here before it reaches their owner: no trial fails."""
        process = start(tmp_path, 2, n_trials=4)
        wait_until(lambda: running(tmp_path))
        send(children(process.pid), signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out = process.communicate(timeout=AT_ONCE)[0]
        assert process.returncode == 128 + signal.SIGTERM, out
        found = stored(tmp_path)
        assert all(trial.state.is_finished() for trial in found)
        assert {trial.user_attrs["reason"] for trial in found if trial.state == TrialState.FAIL} == {"interrupted"}

    def test_a_study_under_nohup_outlives_its_terminal(self, tmp_path):
        """SIGHUP stays ignored if it was ignored when the program started."""
        process = start(tmp_path, 1, n_trials=2, hangup=signal.SIG_IGN)
        wait_until(lambda: running(tmp_path))
        process.send_signal(signal.SIGHUP)
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 0, out
        assert all(trial.state.is_finished() for trial in stored(tmp_path))

    def test_a_closed_terminal_ends_a_study_in_good_order(self, tmp_path):
        """The kernel sends SIGHUP, and writing to the terminal fails from then on."""
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(tmp_path)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.environ["FAKE_SECONDS"] = "0.2"
            os.execv(sys.executable, [sys.executable, str(SCRIPT), '{"n_trials": 4}', "1"])
        while not running(tmp_path):
            os.read(terminal, 65536)  # otherwise the buffer of the terminal fills up
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
        assert all(trial.state.is_finished() for trial in stored(tmp_path))


class TestHanging:
    """A child that does not end by itself is ended, and one that has ended is noticed."""

    def test_a_trial_that_hangs_fails_at_its_time_limit(self, storage, monkeypatch):
        """The reason is stored, and the next trial runs."""
        monkeypatch.setenv("FAKE_FAULT", "hang")
        assert fake_study.run(storage, n_trials=4, trial_timeout=1) == 0
        failed = check(storage, 4)
        assert {trial.user_attrs["reason"] for trial in failed} == {"time limit"}
        assert {trial.user_attrs["message"] for trial in failed} == {"it did not end within 1 s"}

    def test_a_trial_that_hangs_is_interrupted_after_the_timeout(self, storage, monkeypatch):
        """After the study's time limit and a grace period, the study ends although its trials do not."""
        start_trial = worker.Worker._start

        def start(self, slot):
            start_trial(self, slot)
            self._deadline = time.monotonic() + 0.5  # the limit passes while a trial runs, however long the start took

        monkeypatch.setattr(worker.Worker, "_start", start)
        monkeypatch.setattr(limits, "GRACE_SECONDS", 1)
        monkeypatch.setenv("FAKE_FAULT", "hang:always")
        fake_study.run(storage, n_trials=4, timeout=600)
        found = trials(storage)
        assert {trial.state for trial in found} == {TrialState.FAIL}
        assert {trial.user_attrs["reason"] for trial in found} == {"interrupted"}

    def test_a_process_that_holds_the_pipe_does_not_hide_a_death(self, storage, monkeypatch):
        """A process that the child has started keeps the pipe open after the child has ended."""
        monkeypatch.setenv("FAKE_FAULT", "fork")
        began = time.monotonic()
        fake_study.run(storage, n_jobs=1, n_trials=2, trial_timeout=60)
        assert time.monotonic() - began < 60
        for trial in check(storage, 2, some=False):
            assert trial.user_attrs["message"] == "its process ended with exit code 5"

    def test_a_frozen_process_is_ended(self, tmp_path):
        """A child that was stopped with SIGSTOP is ended at the time limit of its trial."""
        process = start(tmp_path, 1, n_trials=2, trial_timeout=3, pruner="none")
        wait_until(lambda: running(tmp_path))
        send(children(process.pid), signal.SIGSTOP)
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 0, out
        assert [trial.user_attrs.get("reason") for trial in stored(tmp_path)] == ["time limit", None]


class TestMemory:
    """Running out of memory is contained in one trial."""

    def test_a_flood_on_standard_error_is_not_kept(self, storage, monkeypatch):
        """300 MB on one line: the owner uses little memory, and the trial's own error is recorded."""
        monkeypatch.setenv("FAKE_FAULT", "flood:always")
        before = peak()
        fake_study.run(storage, n_jobs=1, n_trials=1)
        assert peak() - before < 100_000_000
        assert check(storage, 1, some=False)[0].user_attrs["message"] == "after the flood"

    @pytest.mark.skipif(not memory.can_measure(), reason="needs /proc")
    def test_a_trial_over_its_memory_limit_fails(self, storage, monkeypatch):
        """It is not tried again, and the next trial runs."""
        monkeypatch.setenv("FAKE_FAULT", "hog")
        assert fake_study.run(storage, n_trials=4, trial_memory=400) == 0
        failed = check(storage, 4)
        assert {trial.user_attrs["reason"] for trial in failed} == {"out of memory"}
        assert {trial.user_attrs["message"] for trial in failed} == {"its process used more than 400 MB of memory"}

    @pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK), reason="needs control groups")
    def test_the_kernel_kills_a_trial_in_a_control_group(self, tmp_path):
        """The study and its child share a limit. The child is killed, and the study goes on."""
        group = Path("/sys/fs/cgroup/memory", f"dropopt-{os.getpid()}")
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text("900000000")
            process = start(
                tmp_path, 1, n_trials=4, env={"FAKE_FAULT": "hog", "FAKE_SECONDS": "0.01"}, group=group / "cgroup.procs"
            )
            out = process.communicate(timeout=120)[0]
            failed = [trial for trial in stored(tmp_path) if trial.state == TrialState.FAIL]
        finally:
            group.rmdir()
        assert process.returncode == 0, out
        assert len(stored(tmp_path)) == 4
        assert {trial.user_attrs["reason"] for trial in failed} == {"out of memory"}

    def test_errors_that_mean_out_of_memory(self):
        """Python's own, torch's on a GPU and on the CPU, and an error that was caused by one of them."""
        with pytest.raises(RuntimeError, match="can't allocate memory") as torchs:
            torch.empty(2**60, dtype=torch.uint8)
        wrapped = ValueError("the model cannot be built")
        wrapped.__cause__ = MemoryError()
        for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), torchs.value, wrapped):
            assert memory.ran_out(error)
        assert not memory.ran_out(RuntimeError("shapes cannot be multiplied"))
        assert not memory.ran_out(ValueError("out of memory"))


def check(storage, count, some=True):
    """Check that all trials have ended, those with high learning rates by failing; return the ones that failed."""
    found = trials(storage)
    assert len(found) == count
    assert all(trial.state.is_finished() for trial in found)
    failed = [trial for trial in found if trial.state == TrialState.FAIL]
    if some:
        assert 0 < len(failed) < count
    return failed


def peak():
    """Return the largest number of bytes of memory that this process has used so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
