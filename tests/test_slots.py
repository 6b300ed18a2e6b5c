"""A slot: a child process that trains, and what its owner can tell it."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dropopt.config import RunConfig
from dropopt.study.slots import Pool, Targets


def train_for_ever(run, on_epoch):
    """After a report one epoch without end: no other report comes, only steps."""
    on_epoch(SimpleNamespace(epoch=1, epochs=2, train_loss=1, val_loss=1, val_accuracy=0, smoothed_loss=1))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    while True:
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()


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
