"""Journal files: whole lines or nothing, damage that is told by its line, and a lock whose holder is named."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from dropopt.config import ConfigError
from dropopt.study.store import journal, journal_lock
from dropopt.study.store.journal import _append, _damage, _end_of_last_line, open_journal
from dropopt.study.store.journal_lock import HeldError, holder, marker, writing

fcntl = pytest.importorskip("fcntl")


@pytest.fixture(name="path")
def _path(tmp_path):
    """A journal of one study."""
    path = tmp_path / "my s.log"
    optuna.create_study(study_name="a", storage=open_journal(path, create=True))
    return path


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 200_000])
def test_the_end_of_the_last_line_is_found_however_long_the_rest_is(tmp_path, length):
    """What follows it was never acknowledged. A file without a line has none."""
    path = tmp_path / "s.log"
    for begin in (b"", b"\n", b"ab\ncd\n"):
        path.write_bytes(begin + b"x" * length)
        descriptor = os.open(path, os.O_RDONLY)
        assert _end_of_last_line(descriptor) == len(begin)
        os.close(descriptor)


def test_an_incomplete_last_line_is_cut_off(path):
    """It was never acknowledged. Every line is valid afterwards."""
    os.truncate(path, path.stat().st_size - 1)
    optuna.create_study(study_name="b", storage=open_journal(path, create=True))
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert optuna.get_all_study_names(open_journal(path, create=False)) == ["b"]


@pytest.mark.parametrize("fault", ["short", "error", "sync"])
def test_a_line_that_cannot_be_written_as_a_whole_is_not_written(path, monkeypatch, fault):
    """The file is as it was, without what a dead writer has left at its end."""
    before = path.read_bytes()
    path.write_bytes(before + b'{"half')
    write = os.write

    def fail(descriptor, *_):
        write(descriptor, b"half")
        if fault != "short":
            raise OSError(errno.EIO, "I/O error")
        return 4

    monkeypatch.setattr(journal.os, "fsync" if fault == "sync" else "write", fail)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    with pytest.raises(OSError, match="No space left on device" if fault == "short" else "I/O error") as caught:
        _append(descriptor, b"whole\n")
    assert fault != "short" or caught.value.errno == errno.ENOSPC
    os.close(descriptor)
    assert path.read_bytes() == before


def test_damage_is_told_by_its_line_with_what_to_type(path):
    """The command keeps the lines before it. A file that begins with something else is no journal."""
    lines = path.read_bytes()
    path.write_bytes(lines + b"{torn\n" + lines)
    count = lines.count(b"\n")
    name = shlex.quote(str(path))
    assert _damage(path) == (
        f"storage {path} is damaged at line {count + 1}; to keep the lines before it, type: "
        f"head -n {count} {name} > repaired.log"
    )
    path.write_bytes(b"hello\n" + lines)
    assert _damage(path) == f"storage {path} is not a journal file: line 1 is not JSON; give another --storage"
    path.write_bytes(lines)
    assert _damage(path) == f"storage {path} was being changed while it was read; try again"


def test_what_is_no_journal_is_an_error_in_one_line(tmp_path):
    """A missing file is one unless it is to be created; its folder is made then."""
    with pytest.raises(
        ConfigError, match=r"^no storage at .*a/s\.log; run a study first, or give --storage or OPTUNA_ST"
    ):
        open_journal(tmp_path / "a" / "s.log", create=False)
    assert not (tmp_path / "a").exists()
    open_journal(tmp_path / "a" / "s.log", create=True)
    assert (tmp_path / "a" / "s.log").read_bytes() == b""
    with pytest.raises(ConfigError, match=r"is not a file; give a URL, a SQLite or a journal file$"):
        open_journal(tmp_path, create=True)
    (tmp_path / "other").write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match=r"^storage .*other is not a journal file: KeyError\('op_code'\)$"):
        open_journal(tmp_path / "other", create=True)


def test_the_holder_of_a_lock_is_named_and_how_it_is_ended(path, monkeypatch):
    """If the system tells which process it is, and whether it is stopped."""
    descriptor = os.open(path, os.O_RDWR)
    lines = []
    for pid, stopped in ((None, None), (7, False), (7, True)):
        monkeypatch.setattr(journal_lock, "holder", lambda _, pid=pid: pid)
        monkeypatch.setattr(journal_lock, "_is_stopped", lambda _, stopped=stopped: stopped)
        error = HeldError(descriptor, path)
        lines.append(str(error))
        assert error.errno == errno.EAGAIN
    os.close(descriptor)
    held = f"holds the lock of {path}"
    assert lines == [
        f"another process {held}; it may be stopped, or on another machine",
        f"process 7 {held}",
        f"process 7 {held} and is stopped; continue it (kill -CONT 7) or end it (kill -9 7)",
    ]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc")
def test_the_holder_is_found_among_all_locks(path, tmp_path):
    """Of this file, whatever other files are locked."""
    other = tmp_path / "other"
    other.touch()
    with path.open() as mine, other.open() as its:
        fcntl.flock(its, fcntl.LOCK_EX)
        assert holder(mine.fileno()) is None
        fcntl.flock(mine, fcntl.LOCK_EX)
        assert holder(mine.fileno()) in (os.getpid(), None)  # a container may hide it
        assert holder(its.fileno()) == holder(mine.fileno())
    code = "import os, signal; print(1, flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert journal_lock._is_stopped(child.pid)
        child.kill()
    assert not journal_lock._is_stopped(child.pid)
    assert not journal_lock._is_stopped(os.getpid())


def test_a_lock_is_waited_for_a_second(path, monkeypatch):
    """In short pauses. Where the file system has no locks, nothing is locked and links of others stay."""
    now, naps = [0.0], []

    def sleep(seconds):
        naps.append(seconds)
        now[0] += 0.25

    monkeypatch.setattr(journal_lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(journal_lock.time, "sleep", sleep)
    with path.open() as held, path.open() as mine:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HeldError), writing(mine.fileno(), path):
            pass
        assert naps == [0.002] * 5
        fcntl.flock(held, fcntl.LOCK_UN)
        link = f"{path}.lock"
        os.symlink("of Optuna", link)
        with writing(mine.fileno(), path), pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert os.readlink(link) == "of Optuna", "only links of dropopt's processes are removed"
        os.unlink(link)
        os.symlink(marker(path), link)

        def none(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it was released
        monkeypatch.setattr(journal_lock.fcntl, "flock", none)
        with writing(mine.fileno(), path):
            assert os.readlink(link) == marker(path)
