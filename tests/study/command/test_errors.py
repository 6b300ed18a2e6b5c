"""How a command ends: with one line for an error of the system, and without losing a result that cannot be written."""

import errno
import os
import tempfile

import pytest
import torch

from dropopt.config import ConfigError
from dropopt.study.after.retrain import save_weights
from dropopt.study.command.confirm import confirm
from dropopt.study.command.errors import FAILED, guard
from dropopt.study.command.output import check_writable
from dropopt.study.command.train import save_or_rescue
from dropopt.study.run.errors import StudyError
from dropopt.study.session import confirming

NO_THREAD, OTHER = RuntimeError("can't start new thread"), RuntimeError("another error")
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
OUTPUT = BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0)


@pytest.mark.parametrize(("error", "known"), [(NO_THREAD, True), (NO_PROCESS, True), (OTHER, False), (OUTPUT, False)])
def test_a_limit_of_processes_is_named(error, known, capsys):
    """Whether a thread or a process cannot start; other errors of the same types are bugs, and keep their traceback."""

    def work():
        raise error

    with pytest.raises(SystemExit if known else type(error)) as ended:
        guard(work)
    line = "dropopt: the system allows no further process or thread; raise the limit that ulimit -u shows\n"
    assert capsys.readouterr().err == line * known
    assert not known or ended.value.code == FAILED


def test_a_network_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    """In the folder for temporary files, which the message names; if that is full too, the first error is reported."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "model.pt"
    with pytest.raises(
        StudyError, match=r"^the weights cannot be written to \S+: .*; the trained network is in"
    ) as error:
        save_or_rescue(lambda path: save_weights({"w": torch.ones(2)}, path), output)
    rescued = str(error.value).rpartition(" ")[2]
    assert rescued.endswith("/model.pt")
    assert torch.load(rescued)["w"].tolist() == [1, 1]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StudyError, match=r"model\.pt: [^;]+$"):
        save_or_rescue(lambda path: save_weights({"w": torch.ones(2)}, path), output)


def test_a_folder_that_is_read_only_is_noticed(tmp_path, monkeypatch):
    """As root, only a file system can be read-only."""
    check_writable(tmp_path / "report.html")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"report\.html cannot be written: its folder is read-only"):
        check_writable(tmp_path / "report.html")


def test_the_last_line_of_a_confirmation_that_was_stopped(monkeypatch, capsys):
    """It says how to go on."""
    monkeypatch.setattr(confirming, "confirm", lambda *_: (143, None))
    assert confirm(study="digits", storage="study.log") == 143
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on where it was"
