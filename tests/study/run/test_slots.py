"""A slot: a child process that trains, and what its owner can tell it."""

import os
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dropopt.config import RunConfig
from dropopt.study.run.machine import VISIBLE, cards, slots
from dropopt.study.run.slots import Pool, Targets


def train_for_ever(run, on_epoch):
    """After a report one epoch without end: no other report comes, only steps."""
    on_epoch(SimpleNamespace(epoch=1, epochs=2, train_loss=1, val_loss=1, val_accuracy=0, smoothed_loss=1))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    while True:
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def tell_its_card(run, on_epoch):
    """Its report names the card that it sees."""
    card = os.environ.get(VISIBLE, "any")
    on_epoch(SimpleNamespace(epoch=1, epochs=2, train_loss=card, val_loss=1, val_accuracy=0, smoothed_loss=1))


def heard(pool, kind):
    """The next message of this kind."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        event = pool.wait(0.1)
        if event is not None and event.message is not None and event.message["kind"] == kind:
            return event.message
    pytest.fail(f"no {kind} in a minute")


def test_a_trial_stops_within_a_step():
    """Told to stop, a trial does not train its epoch to the end; the slot takes the next one."""
    run = RunConfig().model_dump(mode="json")
    with Pool(1, Targets(load="fake_training:load", train="test_slots:train_for_ever")) as pool:
        (slot,) = pool.slots
        slot.send(do="prepare", run=run)
        heard(pool, "ready")
        for trial in (3, 4):
            slot.send(do="train", trial=trial, run=run)
            assert heard(pool, "report")["trial"] == trial
            slot.send(do="stop", trial=trial)
            assert heard(pool, "stopped")["trial"] == trial


def test_slots_share_cards_evenly():
    """Three slots on two cards: each sees one, in turn, and so does the one that takes a dead one's place."""
    run = RunConfig().model_dump(mode="json")
    with Pool(3, Targets(load="fake_training:load", train="test_slots:tell_its_card"), ["0", "5"]) as pool:
        pool.replace(pool.slots[1])
        seen = []
        for slot in pool.slots:
            slot.send(do="train", trial=0, run=run)
            seen.append(heard(pool, "report")["train_loss"])
    assert seen == ["0", "5", "0"]


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
def test_cards_are_those_that_may_be_seen(monkeypatch, visible, device, found):
    """CUDA's own variable is heeded; a device that is named keeps all cards in sight, and its number."""
    monkeypatch.setenv(VISIBLE, visible)
    assert cards(device) == found


def test_a_card_takes_four_slots(monkeypatch):
    """Of sixteen cores, four serve a card, unless one says otherwise."""
    monkeypatch.setattr("dropopt.study.run.machine.cores", lambda: 16)
    assert [slots(-1, count) for count in (0, 1, 2, 9)] == [16, 4, 8, 16]
    assert slots(7, 1) == 7
