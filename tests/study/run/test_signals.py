"""Signals that end a study, sent to this process."""

import os
import pty
import signal
import stat
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from dropopt.study.run import signals
from dropopt.study.run.signals import SETTLE_SECONDS, SIGNALS, SignalCatcher


def eventually(condition):
    """Wait for another thread."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
    return True


@pytest.fixture(autouse=True)
def _kept():
    """Handlers as in a shell, restored afterwards, even if a catcher does not."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(descriptor)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"])
def test_the_first_signal_is_noted_and_the_second_ends_the_process(monkeypatch, name):
    """Each calls its function; the process ends with 128 + the number as soon as the block has recorded its trials.

    A warning of a scheduler may be the first signal, but not the second one.
    """
    log, number = [], getattr(signal, name)

    def leave(code):
        log.append(code)
        sys.exit()  # the thread

    monkeypatch.setattr(signals.os, "_exit", leave)
    monkeypatch.setattr(signals, "_leave_terminal", lambda: log.append("left"))
    monkeypatch.setattr(signals, "_show_cursor", lambda: log.append("cursor"))
    monkeypatch.setattr(signals, "SETTLE_SECONDS", 30)
    left = ["left"] if number == signal.SIGHUP else []
    with SignalCatcher() as catcher:
        assert not catcher.wait(0)
        with catcher.guarding(on_first=lambda: log.append("first"), on_second=lambda: log.append("second")):
            os.kill(os.getpid(), signal.SIGWINCH)
            os.kill(os.getpid(), number)
            assert catcher.wait(10)
            assert eventually(lambda: log == [*left, "first"])
            assert catcher.received == number
            os.kill(os.getpid(), signal.SIGXCPU)
            os.kill(os.getpid(), signal.SIGTERM)
            assert eventually(lambda: log == [*left, "first", "second"])
            time.sleep(0.02)  # the thread waits for the end of the block
            assert len(log) == len(left) + 2
        assert eventually(lambda: log[len(left) + 2 :] == ["cursor", 128 + signal.SIGTERM])
        assert catcher.received == number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL, "a further Ctrl-C ends the program without a traceback"


def test_a_storage_that_does_not_answer_delays_the_end_only_shortly(monkeypatch):
    """After SETTLE_SECONDS the process ends all the same; outside a guarded block, at once."""
    monkeypatch.setattr(signals.os, "_exit", sys.exit)
    catcher = SignalCatcher()
    catcher._catch(signal.SIGINT)
    seconds = {}
    for guarded, block in (
        (False, nullcontext()),
        (True, catcher.guarding(on_first=pytest.fail, on_second=nullcontext)),
    ):
        with block:
            began = time.monotonic()
            with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
                catcher._catch(signal.SIGTERM)
            seconds[guarded] = time.monotonic() - began
    assert seconds[False] < SETTLE_SECONDS / 2
    assert SETTLE_SECONDS <= seconds[True] < SETTLE_SECONDS + 5


def test_handlers_are_restored(monkeypatch):
    """Those that were there before, and the wakeup descriptor.

    A SIGHUP that nohup has disabled stays disabled, and a program's own handler of a warning stays in force.
    """
    mine = lambda *_: None  # noqa: E731
    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, mine)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs)
    with SignalCatcher() as catcher:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signals._handle
        assert signal.getsignal(signal.SIGUSR1) is mine
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not catcher.wait(0.05)
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "signals"]
        assert thread.daemon
    assert catcher.received is None
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == theirs
    thread.join(10)
    assert not thread.is_alive()
    os.close(ours)
    os.close(theirs)


def test_another_thread_catches_nothing():
    """Python allows handlers in the main thread alone."""
    before = [signal.getsignal(number) for number in SIGNALS]

    def work():
        with SignalCatcher() as catcher, catcher.guarding(on_first=pytest.fail, on_second=pytest.fail):
            assert [signal.getsignal(number) for number in SIGNALS] == before
            done.append(catcher.wait(0))

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]


def test_output_to_a_closed_terminal_goes_nowhere(tmp_path):
    """Files and pipes stay; a terminal that shows a live table gets its cursor back."""
    owner, terminal = pty.openpty()
    kept = os.dup(1), os.dup(2)
    try:
        with open(tmp_path / "log", "wb") as file:
            os.dup2(terminal, 1)
            os.dup2(file.fileno(), 2)
        signals._show_cursor()
        signals._leave_terminal()
        found = os.fstat(1)
        os.write(2, b"kept")
        os.close(2)
        signals._leave_terminal()  # a descriptor that is closed is no error
    finally:
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == os.stat(os.devnull).st_rdev
    assert (tmp_path / "log").read_bytes() == b"kept"
    os.close(terminal)
    os.close(owner)


def test_the_cursor_is_shown_on_a_terminal_alone(monkeypatch):
    """An output that is closed, or none, is no error."""
    written = []
    monkeypatch.setattr(signals.os, "write", lambda *given: written.append(given))

    def closed():
        raise ValueError("I/O operation on closed file")

    for isatty in (lambda: False, closed, lambda: True):
        monkeypatch.setattr(signals.sys, "stdout", SimpleNamespace(isatty=isatty, fileno=lambda: 7))
        signals._show_cursor()
    monkeypatch.setattr(signals.sys, "stdout", None)
    signals._show_cursor()
    assert written == [(7, b"\x1b[?25h\n")]
