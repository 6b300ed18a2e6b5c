"""What tests of faults need: studies that run in processes of their own, on any storage, and a look from outside."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import fake_study
import optuna
import sqlalchemy
from processes import launch

from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.url import resolve

SCRIPT = Path(fake_study.__file__)

#: Finds a row if a trial is running and has reported.
REPORTING = "SELECT 1 FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE state = 'RUNNING' LIMIT 1"
#: A program that runs another one with a clock that is wrong by some seconds.
SKEWED = """
import runpy, sys, time
skew, real = float(sys.argv.pop(1)), time.time
time.time = lambda: real() + skew
sys.path[0] = sys.argv[1].rpartition("/")[0]  # as if the program had been started itself
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def start(storage, n_jobs=1, seconds=0.2, skew=0, hangup=signal.SIG_DFL, group=None, **options):
    """Start the fake study in a process; each of its epochs takes ``seconds``; its clock is wrong by ``skew``.

    ``hangup`` is what the process does at SIGHUP when it starts: by default not what nohup may have set for the tests.
    ``group`` is the file of a control group that lists its processes.
    """

    def prepare():
        signal.signal(signal.SIGHUP, hangup)
        if group is not None:
            group.write_text(str(os.getpid()))

    program = [SCRIPT] if not skew else ["-c", SKEWED, skew, SCRIPT]
    environment = os.environ | {"FAKE_SECONDS": str(seconds), "OPTUNA_STORAGE": str(storage)}
    return launch(*program, json.dumps(options), n_jobs, env=environment, preexec_fn=prepare)


def finish(process, seconds=90):
    """Wait for a process; returns its exit code and its output."""
    try:
        out = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it did not end: {process.communicate()[0]}") from None
    return process.returncode, out


def read_until(process, text):
    """Return what a process prints up to a line that contains ``text``; fails the test if there is none."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} is not in the output: {''.join(lines)}")


def trials(storage, name="fake"):
    """Return the trials as they are stored; an empty list while there is no study."""
    try:
        return fake_study.trials(str(storage), name)
    except Exception:
        return []


def reporting(storage):
    """Return the trials that are running and have reported. Cheap while there are none: tests poll it."""
    url = resolve(str(storage))
    if url.startswith("sqlite:"):
        url = url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"  # creates no file
    if url.startswith(("sqlite:", "postgresql")):
        try:
            with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
                if connection.exec_driver_sql(REPORTING).first() is None:
                    return []
        except sqlalchemy.exc.DBAPIError:  # there is no file, no table yet, or no server
            return []
    return [t for t in trials(storage) if t.state.name == "RUNNING" and t.intermediate_values]


class Outside:
    """A study, by default the fake one, opened by stock Optuna; a context."""

    def __init__(self, storage, name="fake"):
        self._url, self._name = resolve(str(storage)), name

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            opened = open_storage(self._url, create=False)
            stack.callback(close, opened)
            study = optuna.load_study(study_name=self._name, storage=opened)
            self._stack = stack.pop_all()
        return study

    def __exit__(self, *_):
        self._stack.close()


def check_whole(found, n_trials):
    """Check what every study must keep: the total, no trial without an owner, and no gap in the reports."""
    by_state = {}
    for trial in found:
        by_state.setdefault(trial.state.name, []).append(trial)
    assert "RUNNING" not in by_state, by_state
    counted = [t for t in found if t.state.name in ("COMPLETE", "PRUNED")]
    assert len(counted) == n_trials, [(t.number, t.state.name, t.user_attrs.get("reason")) for t in found]
    assert [trial.number for trial in found] == list(range(len(found)))
    for trial in counted:
        assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
    configurations = [str(sorted(trial.params.items())) for trial in counted]
    assert len(set(configurations)) == len(configurations)
