"""Storages that become unreachable, fill up, are damaged or are changed by others while a study runs."""

import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import fake_study
import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution
from outside import Outside, check_whole, finish, read_until, reporting, start, trials
from processes import wait_until

from dropopt.study.store import opening
from dropopt.study.store.errors import StorageError
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import is_outage
from dropopt.study.store.queries import find_study
from dropopt.study.store.trial_budget import budget_used
from dropopt.study.store.url import resolve


def test_a_study_outlives_a_restart_of_its_database(server):
    """Training continues, the reports are stored later, nothing runs twice, and the password is not shown."""
    process = start(server.url, n_jobs=2, n_trials=4, pruner="none", storage_patience=60, pages=True)
    wait_until(lambda: reporting(server.url))
    server.stop()
    said = read_until(process, "storage unreachable, retrying")
    server.start()
    code, out = finish(process)
    assert code == 0, out
    assert "storage reachable again" in out
    assert "canary" not in said + out
    found = trials(server.url)
    check_whole(found, 4)
    assert len(found) == 4


def test_a_database_that_stays_away_ends_the_study_with_one_line(server):
    """The exit code is 1. After the database is back, the same command resumes the study."""
    process = start(server.url, n_trials=3, pruner="none", storage_patience=1, grace=0.5)
    wait_until(lambda: reporting(server.url))
    server.stop()
    code, out = finish(process)
    assert code == 1, out
    assert out.splitlines()[-1].startswith("dropopt: the storage has been unreachable for")
    assert "Traceback" not in out
    process = start(server.url, n_trials=3, pruner="none", seconds=0.01, grace=0.5)
    read_until(process, "storage unreachable, retrying")
    server.start()
    code, out = finish(process)
    assert code == 0, out
    check_whole(trials(server.url), 3)


#: A program that holds the lock of a journal, has written half a line, and is stopped; then it writes the other half.
HALF_A_LINE = """
import os, signal, sys
from pathlib import Path
from dropopt.study.store.journal_lock import writing

path = Path(sys.argv[1])
descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
with writing(descriptor, path):
    os.write(descriptor, b'{"op_code":2,"worker_id":"x","study_id":0,"user_attr":')
    os.kill(os.getpid(), signal.SIGSTOP)
    os.write(descriptor, b'{"half":1}}\\n')
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux lists the locks of processes")
def test_a_stopped_process_that_holds_the_lock_of_a_journal_is_named(tmp_path):
    """Its lock is not broken, because it may have written half a line. The others end with an error, and resume."""
    path = tmp_path / "s.log"
    fake_study.run(str(path), n_jobs=1, n_trials=1)
    holder = subprocess.Popen([sys.executable, "-c", HALF_A_LINE, path])
    wait_until(lambda: not path.read_bytes().endswith(b"\n"))
    with pytest.raises(StorageError, match=r"^the storage has been unreachable for") as caught:
        fake_study.run(str(path), n_jobs=1, n_trials=2, storage_patience=0)
    stopped = f"process {holder.pid} holds the lock of {path} and is stopped"
    assert f"{stopped}; continue it (kill -CONT {holder.pid})" in str(caught.value)
    assert len(trials(path)) == 1  # the storage can still be read
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(30) == 0
    with Outside(path) as study:
        assert study.user_attrs["half"] == 1
    assert fake_study.run(str(path), n_jobs=1, n_trials=2) == 0
    check_whole(trials(path), 2)


def test_a_signal_ends_a_study_whose_database_is_frozen(server):
    """The study does not wait for the answer of the database."""
    process = start(server.url, n_trials=8, pruner="none", grace=1)
    wait_until(lambda: reporting(server.url))
    with server.frozen():
        time.sleep(0.5)  # until the process waits for an answer
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        code, out = finish(process, 40)
        assert time.monotonic() - began < 20, out
        assert "Traceback" not in out
        assert code != 0


def test_a_worker_that_is_stopped_inside_a_transaction_holds_up_no_other(server, monkeypatch):
    """The server ends the transaction, and with it the lock of the study. The worker tries again when it wakes up."""
    monkeypatch.setattr(opening, "IDLE_TIMEOUT", 2)
    assert fake_study.run(server.url, n_jobs=1, name="locked", n_trials=1) == 0
    with closing(Opened(server.url)) as opened:
        engine = opened.storage.inner._backend.engine
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM studies FOR UPDATE")
            assert fake_study.run(server.url, n_jobs=1, name="locked", n_trials=2) == 0
            with pytest.raises(sqlalchemy.exc.DBAPIError) as stopped:
                connection.exec_driver_sql("SELECT 1")
    assert is_outage(stopped.value)
    check_whole(fake_study.trials(server.url, "locked"), 2)


@pytest.mark.parametrize("name", ["s.db", "s.log"])
def test_a_full_disk_interrupts_a_study_and_damages_nothing(tmp_path, name):
    """A limit on the size of files simulates the disk. After it is lifted, the study continues."""
    storage = tmp_path / name
    process = start(storage, seconds=0.05, n_trials=5, pruner="none", pages=True)
    wait_until(lambda: reporting(storage))
    grown = max(path.stat().st_size for path in tmp_path.glob("*.db-wal")) if name == "s.db" else storage.stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (grown + 100, resource.RLIM_INFINITY))
    read_until(process, "storage unreachable, retrying")
    assert trials(storage)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    code, out = finish(process)
    assert code == 0, out
    assert "storage reachable again" in out
    check_whole(trials(storage), 5)


def test_a_folder_that_cannot_hold_the_best_trials_files_is_reported(tmp_path, capsys):
    """The trials are stored elsewhere, so the study ends as usual."""
    (tmp_path / "s.db.artifacts").write_text("a file where the folder should be")
    assert fake_study.run(f"sqlite:///{tmp_path}/s.db", n_trials=2, n_jobs=1, pages=True) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "note: the files of the best trials cannot be stored in" in out
    assert "study fake: 2 complete" in out


def test_a_removed_storage_is_an_error(tmp_path):
    """The exit code is 1, and no new file appears."""
    for name in ("s.db", "s.log"):
        path = tmp_path / name / name
        process = start(path, n_trials=3)
        wait_until(lambda path=path: reporting(path))
        path.unlink()
        code, out = finish(process)
        assert (code, "Traceback" in out) == (1, False), out
        assert f"storage {path} was removed or moved while the study ran" in out.splitlines()[-1]
        assert not path.exists()


def test_a_trial_that_was_ended_elsewhere_does_not_end_the_study(tmp_path):
    """The next trial runs; a deleted study ends the command with one line."""
    storage = tmp_path / "s.db"
    process = start(storage, seconds=0.5, n_trials=4, pruner="none")
    wait_until(lambda: reporting(storage))
    with Outside(storage) as study:
        study.tell(0, state=optuna.trial.TrialState.FAIL)
    wait_until(lambda: any(trial.number > 0 for trial in reporting(storage)))
    with Outside(storage) as study:
        optuna.delete_study(study_name="fake", storage=study._storage)
    code, out = finish(process)
    assert "trial 0 failed: it was ended by another process" in out
    assert (code, "Traceback" in out) == (1, False), out
    assert out.splitlines()[-1].startswith("dropopt: the study was deleted from the storage")


def test_a_parameter_of_another_kind_that_another_program_wrote_is_ignored(tmp_path):
    """A journal accepts a trial with one: the study goes on with what is left of that trial, and reports show that."""
    storage = str(tmp_path / "s.log")
    assert fake_study.run(storage, n_jobs=1, n_trials=2) == 0
    with Outside(storage) as study:
        kinds = {
            "lr": (CategoricalDistribution(["low", "high"]), "high"),
            "r0": (FloatDistribution(0.1, 0.9, log=True), 0.5),
            "pattern": (CategoricalDistribution(["none", "other"]), "other"),
        }
        params = {name: value for name, (_, value) in kinds.items()}
        distributions = {name: kind for name, (kind, _) in kinds.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=1.0))
    assert fake_study.run(storage, n_jobs=1, n_trials=14) == 0  # more than a sampler draws at random
    found = trials(storage)
    assert budget_used(found) == 14
    assert found[2].params == params
    with closing(Opened(storage, create=False)) as opened:
        read = find_study(opened.storage, "fake").trials
    assert [read[2].params, *(trial.params for trial in read[3:])] == [{}, *(trial.params for trial in found[3:])]


@pytest.mark.parametrize("name", ["s.db", "s.log"])
def test_a_trial_of_another_program_before_the_first_one_may_make_a_study_unusable(tmp_path, name):
    """If a parameter of its space is of another kind there: one line says so, and no trial is left running."""
    storage = resolve(str(tmp_path / name))
    assert fake_study.run(storage, n_jobs=1, n_trials=1) == 0
    with Outside(storage) as study:
        attributes = study.user_attrs
        optuna.delete_study(study_name="fake", storage=study._storage)
        study = optuna.create_study(study_name="fake", storage=study._storage)
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        other = {"lr": CategoricalDistribution(["low", "high"])}
        study.add_trial(optuna.trial.create_trial(params={"lr": "high"}, distributions=other, value=1.0))
    with pytest.raises(StorageError, match=r"in which the parameter 'lr' is of another kind .*; give another --study"):
        fake_study.run(storage, n_jobs=1, n_trials=3)
    assert [trial.state.name for trial in trials(storage)] == ["COMPLETE", "FAIL"]
