"""A slot and its child process, with shell commands in place of the trainer."""

import os
import signal
import sys
import threading
import time

import pytest
from processes import alive, wait_until

from dropopt.study.run import slots
from dropopt.study.run.messages import Stop, encode
from dropopt.study.run.slots import Died, Pool, Slot, Targets


@pytest.fixture(name="child")
def _child(tmp_path, monkeypatch):
    """A function that starts a slot whose child runs a shell command; it returns the slot and what it receives."""
    started = []

    def child(command, **options):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        found, ended = [], threading.Event()

        def receive(slot, content):
            found.append(content)
            if isinstance(content, Died):
                ended.set()

        options = {"card": None, "memory_limit": None} | options
        slot = Slot(Targets("l:l", "t:t"), receive=receive, **options)
        started.append(slot)
        return slot, found, ended

    yield child
    for slot in started:
        slot.kill()
        slot.close()


def test_a_child_is_a_new_session_with_its_arguments_and_environment(child, monkeypatch):
    """Its lines arrive as they were written, then its end; it reads what is sent."""
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    slot, found, ended = child('echo "$@"; echo "$OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"; read line; echo "$line"',
                               card="5", threads=3)  # fmt: skip
    assert os.getsid(slot._process.pid) == slot._process.pid
    assert not ended.wait(0.05)
    slot.send(Stop(3))
    assert ended.wait(30)
    slot.send(Stop(3))  # it is dead
    slot.close()
    assert found == [
        b"-P -m dropopt.study.run.trainer l:l t:t\n",
        b"3 5\n",
        encode(Stop(3)).encode(),
        Died("its process ended with exit code 0"),
    ]
    assert slot._process.stdin.closed
    assert not any(reader.is_alive() for reader in slot._readers)


def test_the_end_of_a_child_ends_what_it_has_started(child):
    """Also while that holds the pipes; and the end of standard error is the reason."""
    _, found, ended = child("sleep 100 & echo $!; head -c 20000 /dev/zero >&2; echo ' why ' >&2; exit 3")
    assert ended.wait(30)
    assert found[1] == Died("its process ended with exit code 3: " + ("\0" * 8186 + " why ").strip()[:500])
    wait_until(lambda: not alive([int(found[0])]), 30)  # its pipes close shortly before the process is gone


def test_a_process_of_another_session_that_holds_the_pipes_does_not_hide_the_end(child, monkeypatch):
    """It is not ended, because it may be the user's own."""
    monkeypatch.setattr(slots, "OUTPUT_SECONDS", 0.1)
    slot, found, ended = child("setsid sh -c 'echo $$; exec sleep 100' & read line; exit 5")
    while not found:
        time.sleep(0.01)
    slot.send(Stop(3))
    assert ended.wait(30)
    assert found[1] == Died("its process ended with exit code 5")
    os.kill(int(found[0]), signal.SIGKILL)  # it is still there


def test_a_killed_child_is_dead_and_stays_unharmed_afterwards(child, monkeypatch):
    """The whole group is killed; once it is reaped, nothing is: its id may be that of another process."""
    slot, found, ended = child("sleep 100 & echo $!; wait")
    while not found:
        time.sleep(0.01)
    slot.kill()
    assert ended.wait(30)
    slot.close()
    wait_until(lambda: not alive([int(found[0])]), 30)
    assert found[1].signal == signal.SIGKILL
    monkeypatch.setattr(slots.os, "killpg", pytest.fail)
    slot.kill()


def test_a_group_that_cannot_be_killed(child, monkeypatch):
    """Then the child itself is, as on systems without groups."""

    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(slots.os, "killpg", forbidden)
    slot, _, ended = child("exec sleep 100")
    slot.kill()
    assert ended.wait(30)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_kill_by_the_kernel(child, monkeypatch, kills):
    """Its counter is read when a child starts and when it has been killed."""
    counts = iter([2, 2 + kills])
    monkeypatch.setattr(slots.memory, "kernel_kills", lambda: next(counts))
    _, found, ended = child("kill -9 $$")
    assert ended.wait(30)
    assert found[0].out_of_memory is bool(kills)


def test_systems_without_waitid(child, monkeypatch):
    """As macOS and Windows: the end is still reported."""
    monkeypatch.delattr(slots.os, "waitid")
    _, found, ended = child("exit 3", memory_limit=1)
    assert ended.wait(30)
    assert found == [Died("its process ended with exit code 3")]


def test_a_child_with_too_much_memory_is_killed(child, monkeypatch):
    """At more than the limit, not at the limit; the first reason stays."""
    sizes = iter([100, 2_000_000, 2_000_001, *[3_000_000] * 99])
    asked = []
    monkeypatch.setattr(slots, "MEMORY_INTERVAL", 0.01)
    monkeypatch.setattr(slots.memory, "used", lambda pid: asked.append(pid) or next(sizes))
    slot, found, ended = child("exec sleep 100", memory_limit=2_000_000)
    assert ended.wait(30)
    assert found == [Died("its process used more than 2 MB of memory", out_of_memory=True)]
    assert set(asked) == {slot._process.pid}
    assert len(asked) >= 3


@pytest.mark.parametrize(("length", "fits"), [(99, True), (100, False)])
def test_a_message_that_is_too_long_ends_the_child(child, monkeypatch, length, fits):
    """The newline counts; a last line that was cut off is dropped."""
    monkeypatch.setattr(slots, "MESSAGE_BYTES", 100)
    wait = "printf cut" if fits else "sleep 100"
    _, found, ended = child(f"head -c {length} /dev/zero | tr '\\0' x; echo; {wait}")
    assert ended.wait(30)
    last = Died("its process ended with exit code 0" if fits else "its process sent a message of more than 100 bytes")
    assert found == [b"x" * length + b"\n", last] if fits else [last]


def test_slots_share_cards_evenly(child):
    """Three slots on two GPUs: each sees one, in turn, and so does a child that replaces another one."""
    child('echo "$CUDA_VISIBLE_DEVICES"; sleep 100')
    with Pool(3, Targets(), ["0", "5"]) as pool:
        pool.replace(1)
        seen = {}
        while len(seen) < 3:
            slot, line = pool._events.get(timeout=30)
            if slot in pool._slots:
                seen[pool._slots.index(slot)] = int(line)
    assert seen == {0: 0, 1: 5, 2: 0}


def test_a_pool_ends_its_children(child, monkeypatch):
    """When the block ends, and when a child is replaced; a wait takes as long as it says."""
    child("sleep 100")
    with Pool(2, Targets(), ["7"], 10**15) as pool:
        first = pool._slots[0]
        assert (pool.size, first._memory_limit) == (2, 10**15)
        pool.replace(0)
        assert first._process.returncode == -signal.SIGKILL
        assert pool._slots[0]._process.returncode is None
        while pool.wait(0.01):  # drops the end of the first child
            pass
        began = time.monotonic()
        assert pool.wait(0.2) is None
        assert 0.2 <= time.monotonic() - began < 5
    assert {slot._process.returncode for slot in pool._slots} == {-signal.SIGKILL}
