"""The real training, in a process that dies as the plan in ``DYING_PLAN`` says.

The plan is the path of a JSON file: for each trial, by its training seed, the faults of its attempts. A fault is
``["step", n]`` (SIGKILL before step n of the attempt), ``["write", n]``, ``["fsync", n]`` or ``["replace", n]`` (SIGKILL
while the n-th checkpoint is written) or ``["truncate", n]`` (as ``step``, with half of the checkpoint lost). Each
attempt takes its fault out of the plan. The final weights are saved beside the plan.
"""

import json
import os
import signal
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dropopt.training import prepare, train_run

load = prepare


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Torn:
    """A file whose writer dies after ten bytes."""

    def __init__(self, handle, mode):
        self.file = open(handle, mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, data):
        self.file.write(data[:10])
        self.file.flush()
        die()


def train(run, on_epoch, checkpoint=None, on_resume=None):
    plan = Path(os.environ["DYING_PLAN"])
    faults = json.loads(plan.read_text())
    mine = faults.get(str(run.train.seed), [])
    hook = None
    if mine:
        kind, count = mine.pop(0)
        plan.write_text(json.dumps(faults))
        hook = inject(kind, count, checkpoint)
    try:
        result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=on_resume)
    finally:
        if hook is not None:
            hook.remove()
    torch.save(model.state_dict(), plan.with_name(f"{run.train.seed}.pt"))
    return result, model, data


def inject(kind, count, checkpoint):
    """Let this process die at the ``count``-th call."""
    calls = []

    def at_step(*_):
        calls.append(1)
        if len(calls) == count:
            if kind == "truncate":
                os.truncate(checkpoint, checkpoint.stat().st_size // 2)
            die()

    if kind in ("step", "truncate"):
        return register_optimizer_step_pre_hook(at_step)
    name, fault = {"write": ("fdopen", Torn), "fsync": ("fsync", die), "replace": ("replace", die)}[kind]
    real = getattr(os, name)

    def at_call(*arguments):
        if name == "replace" or threads_checkpoint(arguments):
            calls.append(1)
        return fault(*arguments) if len(calls) == count else real(*arguments)

    setattr(os, name, at_call)
    return None


def threads_checkpoint(arguments):
    """Whether a descriptor is that of a temporary file of a checkpoint."""
    return os.readlink(f"/proc/self/fd/{arguments[0]}").endswith(".tmp")
