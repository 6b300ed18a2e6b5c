"""Processes in tests: the fake study as a program of its own, and what has become of a process."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import fake_study
from fake_study import trials

from dropopt.config import ConfigError

SCRIPT = Path(fake_study.__file__)
#: Finds a row if a trial is running and has reported.
REPORTING = "SELECT 1 FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE state = 'RUNNING' LIMIT 1"


def start(folder, n_jobs=2, env=(), hangup=signal.SIG_DFL, group=None, **options):
    """Start the fake study in ``folder``.

    ``hangup`` is what the process does at SIGHUP when it starts: by default not what nohup may have set for the tests.
    ``group`` is the file of a control group that lists its processes.
    """

    def prepare():
        signal.signal(signal.SIGHUP, hangup)
        if group is not None:
            group.write_text(str(os.getpid()))

    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(options), str(n_jobs)],
        cwd=folder,
        env=os.environ | {"FAKE_SECONDS": "0.2"} | dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=prepare,
    )


def children(pid):
    """Return the processes that ``pid`` has started and that are still running."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if not row[1].startswith("Z")]


def send(pids, number):
    """Send a signal to each of ``pids`` that is still there: any of them may have ended since it was listed."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def alive(pids):
    """Return those of ``pids`` that are still running; zombies do not count."""
    found = []
    for pid in pids:
        stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
        if stat.strip() and not stat.startswith("Z"):
            found.append(pid)
    return found


def wait_until(condition, seconds=60):
    """Poll ``condition``; fails the test if it does not become true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def stored(folder):
    """Return the trials of the study in ``folder``; none if there is no study yet."""
    file = Path(folder) / "runs" / "dropopt.db"
    if not file.exists():
        return []
    try:
        return trials(f"sqlite:///{file}")
    except (KeyError, ConfigError):
        return []


def running(folder):
    """Whether a trial of the study in ``folder`` is running and has reported an epoch. Cheap: tests poll it."""
    file = Path(folder) / "runs" / "dropopt.db"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return connection.execute(REPORTING).fetchone() is not None
    except sqlite3.OperationalError:  # there is no file, or no table yet
        return False
