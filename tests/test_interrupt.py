"""Ctrl-C in the first seconds of the command: it ends without a traceback."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

#: A module whose import is interrupted, and turns every error into another one, as some modules written in C do.
STUBBORN = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException as error:
    raise ImportError("initialization failed") from error
"""


@pytest.mark.parametrize("moment", [0.05, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_at_any_moment_prints_no_traceback(tmp_path, moment):
    """From the first line of the program on: before it, Python itself is in charge."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dropopt", "run", "digits", "--n-trials", "2", "--n-jobs", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    if "Traceback" in err or "Exception ignored" in err:
        assert not re.search(r'__main__\.py", line \d+, in main\b', err), err
    else:
        assert process.returncode in (130, -signal.SIGINT), err


def test_an_import_that_hides_the_interrupt_ends_the_process(tmp_path):
    """At once, with the exit code of Ctrl-C; outside imports KeyboardInterrupt is raised as usual."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    program = """if True:
        import os, signal, sys
        from dropopt import interrupt
        interrupt.catch()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("raised", flush=True)
        import stubborn
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "raised\n", "")
