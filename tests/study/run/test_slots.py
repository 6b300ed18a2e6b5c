"""Slots of child processes: their number, their GPUs and environment, and how a child has ended."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from dropopt.study.run.machine import VISIBLE, cards, slots
from dropopt.study.run.messages import Stopped, encode
from dropopt.study.run.ray_slots import _died
from dropopt.study.run.slots import KEEP_MEMORY, Died, Event, Pool, Slot, Targets, _environment


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        ("0,1", "auto", ["0", "1"]),
        ("GPU-a, GPU-b", "auto", ["GPU-a", "GPU-b"]),
        ("0,1", "cuda:1", ["0,1"]),
        ("0,1", "cpu", []),
        ("", "auto", []),
        ("-1", "auto", []),
    ],
)
def test_visible_cards(monkeypatch, visible, device, found):
    """CUDA's variable limits the GPUs; with a named device all of them stay visible, so that its index is valid."""
    monkeypatch.setenv(VISIBLE, visible)
    assert cards(device) == found


def test_four_slots_share_a_card(monkeypatch):
    """With GPUs there are at most four slots per GPU, unless the number is given."""
    monkeypatch.setattr("dropopt.study.run.machine.cores", lambda: 16)
    assert [slots(-1, count) for count in (0, 1, 2, 9)] == [16, 4, 8, 16]
    assert slots(7, 1) == 7


@pytest.mark.parametrize(
    ("code", "stderr", "kills", "died"),
    [
        (3, b"", (0, 0), Died("its process ended with exit code 3")),
        (3, b"a\n last \n\n", (0, 0), Died("its process ended with exit code 3: last")),
        (-11, b"\xff" + b"x" * 600, (0, 0), Died("its process ended by signal 11: \ufffd" + "x" * 499, signal=11)),
        (-9, b"", (2, 2), Died("its process was killed (signal 9)", signal=9)),
        (-9, b"", (2, 3), Died("the kernel killed its process (signal 9), because memory ran out", out_of_memory=True)),
        (-9, b"", (2, None), Died("its process was killed (signal 9), probably out of memory", signal=9)),
        (-9, b"", (None, 2), Died("its process was killed (signal 9), probably out of memory", signal=9)),
    ],
)
def test_how_a_child_ended(monkeypatch, code, stderr, kills, died):
    """By its exit code, the last line of its standard error, and the number of processes that the kernel has killed."""
    before, after = kills
    monkeypatch.setattr("dropopt.study.run.memory.kernel_kills", lambda: after)
    child = SimpleNamespace(_verdict=None, _stderr=bytearray(stderr), _kernel_kills=before)
    assert Slot._how_it_ended(child, code) == died
    child._verdict = Died("it was too slow")
    assert Slot._how_it_ended(child, code) == child._verdict


def test_the_environment_of_a_child(monkeypatch):
    """Its threads and GPUs, freed memory kept unless the user says otherwise, and no password."""
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:secret@host/db")
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv(VISIBLE, "7")
    found = _environment(None, 3)
    threads = {f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    assert {found[name] for name in threads} == {"3"}
    assert (found[VISIBLE], found["GLIBC_TUNABLES"], "OPTUNA_STORAGE" in found) == ("7", KEEP_MEMORY, False)
    monkeypatch.setenv("GLIBC_TUNABLES", "mine")
    found = _environment("0,1")
    assert (found[VISIBLE], found["GLIBC_TUNABLES"], found["OMP_NUM_THREADS"]) == ("0,1", "mine", "1")


def test_events_name_their_slot():
    """Output of a child that was replaced is dropped, and a child that writes nonsense is killed."""
    pool, slots = Pool(0, Targets()), [Mock(), Mock()]
    pool._slots = list(slots)
    pool._receive(Mock(), encode(Stopped(1)).encode())
    pool._receive(slots[1], encode(Stopped(2)).encode())
    pool._receive(slots[0], Died("gone"))
    pool._receive(slots[1], b"\xff\n")
    pool._receive(slots[1], b"{}\n")
    found = [pool.wait(0) for _ in range(6)]
    assert found[:3] == [None, Event(1, Stopped(2)), Event(0, Died("gone"))]
    assert [(event.slot, event.content.reason[:49]) for event in found[3:5]] == [
        (1, "its process sent a message that cannot be read: '"),
        (1, "its process sent a message that cannot be read: i"),
    ]
    assert found[5] is None
    assert [slot.kill.call_count for slot in slots] == [0, 2]


class NodeDiedError(Exception):
    """As Ray names its own."""


class OutOfMemoryError(Exception):
    """As Ray names its own."""


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (NodeDiedError("x"), Died("its node has died", lost_machine=True)),
        (ValueError("a\nThe actor's node has died."), Died("its node has died", lost_machine=True)),
        (ValueError("the node died"), Died("its node has died", lost_machine=True)),
        (OutOfMemoryError(), Died("Ray ended it, because the memory of its node ran out", out_of_memory=True)),
        (ValueError("Low on memory"), Died("Ray ended it, because the memory of its node ran out", out_of_memory=True)),
        (ValueError("first\n second line. And more \n \n"), Died("its Ray actor ended: second line")),
        (ValueError(), Died("its Ray actor ended: ValueError")),
    ],
)
def test_how_an_actor_ended(error, died):
    """By Ray's error: a lost node and lack of memory are told from other faults."""
    assert _died(error) == died
