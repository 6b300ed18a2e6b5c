"""Starting a process, and what has become of it."""

import os
import subprocess
import sys
import time
from contextlib import suppress


def launch(*line, **options):
    """Start Python with the arguments ``line``; its output and its errors are one text."""
    return subprocess.Popen(
        [sys.executable, *map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
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
    """Poll ``condition`` and return its value; fails the test if it does not become true in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found
