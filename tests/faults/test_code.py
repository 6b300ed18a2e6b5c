"""The user's own code is edited while a study uses it."""

import hashlib
import os
import signal
import sys

from outside import Outside, finish, reporting, start
from processes import children, send, wait_until

from dropopt.study.store.code import code_of


def test_a_script_that_is_edited_while_its_study_runs(tmp_path, monkeypatch):
    """Processes that start later import the new source: one line says so, and the study knows which trials used it."""
    mine = tmp_path / "mine.py"
    mine.write_text("a = 1\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(tmp_path)]))
    storage = tmp_path / "s.log"
    process = start(storage, seconds=0.1, n_trials=3, pruner="none", data={"name": "mine:load"})
    wait_until(lambda: reporting(storage))
    mine.write_text("a = 22\n")
    send(children(process.pid), signal.SIGKILL)
    code, out = finish(process)
    assert (code, "Traceback" in out) == (0, False), out
    assert out.count("the source of mine was changed while the study runs; new trials use it") == 1
    with Outside(storage) as study:
        hashes = [code_of(study, number)["mine"]["sha256"] for number in range(3)]
    assert hashes[0] != hashes[1] == hashes[2] == hashlib.sha256(mine.read_bytes()).hexdigest()
