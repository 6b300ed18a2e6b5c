"""Replaces dropopt.training in tests of studies: the same interface, in milliseconds instead of minutes.

The result of a run depends on its learning rate. Environment variables, which child processes inherit, make some runs
fail: ``FAKE_FAULT`` (see :func:`misbehave`; for high learning rates or ``:always``), ``FAKE_DATA`` and ``FAKE_SECONDS``
(of an epoch). With ``FAKE_CHECKPOINTS`` a trial continues from its checkpoint, and notes the epochs that it trains in a
file beside the checkpoint.
"""

import json
import math
import os
import signal
import sys
import time
from types import SimpleNamespace


class Broken(Exception):
    """The error of a failing trial."""


def load(run):
    if os.environ.get("FAKE_DATA") == "missing":
        raise FileNotFoundError("no such data")
    name = os.environ.get("FAKE_DATA", "a")
    data = SimpleNamespace(
        classes=tuple("0123456789"),
        fingerprint={"train": os.urandom(4).hex() if name == "random" else name, "test": "b"},
    )
    notices = ["2 of 9 validation images are exact copies of train images"]
    sites = {"auto": ["norm1", "norm2", "hidden"], "norm": ["norm1", "norm2"], "linear": ["hidden"], "block": []}
    return SimpleNamespace(data=data, sites=sites, complexity=0.25, notices=notices)


def train(run, on_epoch, checkpoint=None, on_resume=None):
    misbehave(os.environ.get("FAKE_FAULT", ""), run)
    print("a model that prints")  # must not mix with the messages of the slot
    distance = abs(math.log10(run.train.lr) + 1) + run.engine.r0

    def report(epoch):
        value = distance + 1 / epoch + (run.train.seed % 1000) * 1e-6
        epochs, accuracy = run.train.epochs, 1 / (1 + value)
        losses = {"train_loss": value, "val_loss": value, "smoothed_loss": value, "objective": value}
        return SimpleNamespace(epoch=epoch, epochs=epochs, val_accuracy=accuracy, **losses)

    keeps = checkpoint is not None and "FAKE_CHECKPOINTS" in os.environ
    done = json.loads(checkpoint.read_text()) if keeps and checkpoint.exists() else 0
    if done:
        on_resume([report(epoch) for epoch in range(1, done + 1)])
    for epoch in range(done + 1, run.train.epochs + 1):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0.005")))
        if keeps:
            save(checkpoint, epoch)
        on_epoch(report(epoch))
    value = report(run.train.epochs).objective
    if os.environ.get("FAKE_FAULT") == "nan":
        value = math.nan
    best = {"best_epoch": run.train.epochs, "best_val_loss": value, "best_val_accuracy": 1 / (1 + value)}
    result = SimpleNamespace(
        objective=value,
        scores={"val_ece": 0.1, "test_loss": value + 1, "test_accuracy": 1 / (1 + value), "test_ece": 0.2},
        **best,
    )
    return result, None, None


def save(checkpoint, epoch):
    """Write the number of epochs as the checkpoint, and note the epoch in the file ``epochs`` beside it."""
    checkpoint.parent.mkdir(exist_ok=True)
    with checkpoint.with_name("epochs").open("a") as file:
        file.write(f"{checkpoint.name} {epoch}\n")
    partial = checkpoint.with_name(checkpoint.name + ".tmp")
    partial.write_text(json.dumps(epoch))
    partial.replace(checkpoint)


def misbehave(fault, run):
    """Fail as ``fault`` requests, in about half of the trials or in all of them."""
    name, _, often = fault.partition(":")
    if not name or (often != "always" and run.train.lr < 0.07):
        return
    if name == "raise":
        raise Broken("lr is too high")
    if name == "memory":
        raise MemoryError
    if name == "exit":
        sys.exit(3)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "flood":
        for _ in range(300):
            os.write(2, b"x" * 1_000_000)
        raise Broken("after the flood")
    if name == "hog":
        held = []
        while True:
            held.append(bytearray(os.urandom(1)) * 10_000_000)
            time.sleep(0.01)
