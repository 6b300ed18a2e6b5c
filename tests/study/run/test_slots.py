"""Slots: child processes that train, stop and share GPUs."""

import os
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dropopt.config import RunConfig
from dropopt.study.run.executor import Died
from dropopt.study.run.machine import VISIBLE, cards, slots
from dropopt.study.run.messages import Prepare, Ready, Report, Stop, Stopped, Train
from dropopt.study.run.slots import Pool, Targets


def epoch(train_loss=1.0):
    """The report of a first epoch."""
    return SimpleNamespace(epoch=1, epochs=2, train_loss=train_loss, val_loss=1, val_accuracy=0, smoothed_loss=1)


def train_forever(run, on_epoch):
    """Report once, then train an epoch that never ends: only steps follow, no report."""
    on_epoch(epoch())
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    while True:
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def report_the_card(run, on_epoch):
    """Report the GPU that the process sees as its training loss."""
    on_epoch(epoch(train_loss=os.environ.get(VISIBLE, "-1")))


def exit_at_once(run, on_epoch):
    """End the process with a message on standard error."""
    os.write(2, b"the last line\n")
    os._exit(7)


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
    with Pool(1, Targets(load="fake_training:load", train="test_slots:train_forever")) as pool:
        pool.send(0, Prepare(RunConfig()))
        received(pool, Ready)
        for trial in (3, 4):
            pool.send(0, Train(trial, RunConfig()))
            assert received(pool, Report).trial == trial
            pool.send(0, Stop(trial))
            assert received(pool, Stopped).trial == trial


def test_slots_share_cards_evenly():
    """Three slots on two GPUs: each sees one, in turn, and so does a child that replaces another one."""
    with Pool(3, Targets(load="fake_training:load", train="test_slots:report_the_card"), ["0", "5"]) as pool:
        pool.replace(1)
        seen = []
        for slot in range(pool.size):
            pool.send(slot, Train(0, RunConfig()))
            seen.append(received(pool, Report).train_loss)
    assert seen == [0, 5, 0]


def test_the_death_of_a_child_is_reported():
    """The event has the exit code and the last line of standard error; messages to a dead child are ignored."""
    with Pool(1, Targets(load="fake_training:load", train="test_slots:exit_at_once")) as pool:
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
    """CUDA's variable limits the GPUs; with a named device all of them stay visible, so that its number is valid."""
    monkeypatch.setenv(VISIBLE, visible)
    assert cards(device) == found


def test_four_slots_share_a_card(monkeypatch):
    """With GPUs there are at most four slots per GPU, unless the number is given."""
    monkeypatch.setattr("dropopt.study.run.machine.cores", lambda: 16)
    assert [slots(-1, count) for count in (0, 1, 2, 9)] == [16, 4, 8, 16]
    assert slots(7, 1) == 7
