"""Errors of the system, which a command reports in one line."""

import errno
import os

import pytest

from dropopt.study.command.errors import FAILED, guard

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
