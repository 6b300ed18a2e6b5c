"""Training functions for tests of slots: child processes import them by name."""

import os
from types import SimpleNamespace

import torch
from torch import nn

from dropopt.study.run.machine import VISIBLE


def epoch(train_loss=1.0):
    """The report of a first epoch."""
    losses = {"train_loss": train_loss, "val_loss": 1, "smoothed_loss": 1, "objective": 1}
    return SimpleNamespace(epoch=1, epochs=2, val_accuracy=0, **losses)


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
