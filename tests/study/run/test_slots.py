"""Slots: child processes that train, stop and share GPUs."""

import time

import pytest

from dropopt.config import RunConfig
from dropopt.study.run.executor import Died
from dropopt.study.run.machine import VISIBLE, cards, slots
from dropopt.study.run.messages import Prepare, Ready, Report, Stop, Stopped, Train
from dropopt.study.run.slots import Pool, Targets


def received(pool, kind):
    """Wait for the next event whose content is of class ``kind``."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        event = pool.wait(0.1)
        if event is not None and isinstance(event.content, kind):
            return event.content
    pytest.fail(f"no {kind.__name__} within a minute")


def test_a_trial_stops_within_a_step():
    """A trial stops before the end of its epoch, and the slot accepts another trial."""
    with Pool(1, Targets(load="fake_training:load", train="odd_training:train_forever")) as pool:
        pool.send(0, Prepare(RunConfig()))
        received(pool, Ready)
        for trial in (3, 4):
            pool.send(0, Train(trial, RunConfig()))
            assert received(pool, Report).trial == trial
            pool.send(0, Stop(trial))
            assert received(pool, Stopped).trial == trial


def test_slots_share_cards_evenly():
    """Three slots on two GPUs: each sees one, in turn, and so does a child that replaces another one."""
    with Pool(3, Targets(load="fake_training:load", train="odd_training:report_the_card"), ["0", "5"]) as pool:
        pool.replace(1)
        seen = []
        for slot in range(pool.size):
            pool.send(slot, Train(0, RunConfig()))
            seen.append(received(pool, Report).train_loss)
    assert seen == [0, 5, 0]


def test_the_death_of_a_child_is_reported():
    """The event has the exit code and the last line of standard error; messages to a dead child are ignored."""
    with Pool(1, Targets(load="fake_training:load", train="odd_training:exit_at_once")) as pool:
        pool.send(0, Train(0, RunConfig()))
        assert received(pool, Died).reason == "its process ended with exit code 7: the last line"
        pool.send(0, Stop(0))
        pool.wake()
        assert pool.wait(60) is None


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
