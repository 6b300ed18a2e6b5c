"""The real training, in a process that dies as the plan in ``DYING_PLAN`` says.

The plan is the path of a JSON file: for each trial, by its training seed, the faults of its attempts. Each attempt
takes its fault out of the plan. The final weights are saved beside the plan, and so is a line for each time
that training continues: the seed, and the number of epochs before. The faults are:

- ``["step", n]``: SIGKILL before step n of the attempt;
- ``["write", n]``, ``["fsync", n]``, ``["replace", n]``: SIGKILL at that stage of writing the n-th checkpoint;
- ``["truncate", n]``: as ``step``, and half of the checkpoint is lost;
- ``["owner", n]``: as ``step``, and the worker that owns this process is killed first.
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


def torn(descriptor, *_):
    """Write ten bytes of a file, then die."""
    os.write(descriptor, b"0123456789")
    die()


def train(run, on_epoch, checkpoint=None, on_resume=None):
    plan = Path(os.environ["DYING_PLAN"])
    faults = json.loads(plan.read_text())
    mine = faults.get(str(run.train.seed), [])
    hook = None

    def note(reports):
        with plan.with_name("resumed").open("a") as file:
            file.write(f"{run.train.seed} {len(reports)}\n")
        on_resume(reports)

    if mine:
        kind, count = mine.pop(0)
        plan.write_text(json.dumps(faults))
        hook = inject(kind, count, checkpoint)
    try:
        result, model, data = train_run(run, on_epoch, checkpoint=checkpoint, on_resume=note)
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
            if kind == "owner":
                os.kill(os.getppid(), signal.SIGKILL)
            die()

    if kind in ("step", "truncate", "owner"):
        return register_optimizer_step_pre_hook(at_step)
    name, fault = {"write": ("fdopen", torn), "fsync": ("fsync", die), "replace": ("replace", die)}[kind]
    real = getattr(os, name)

    def at_call(*arguments):
        if name == "replace" or is_checkpoint(arguments):
            calls.append(1)
        return fault(*arguments) if len(calls) == count else real(*arguments)

    setattr(os, name, at_call)
    return None


def is_checkpoint(arguments):
    """Whether a descriptor is that of a temporary file of a checkpoint."""
    return os.readlink(f"/proc/self/fd/{arguments[0]}").endswith(".tmp")
