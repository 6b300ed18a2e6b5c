"""The child process of a slot: it trains what it is told to, one trial after the other, and reports.

It speaks JSON, a message a line, on its standard input and output, and knows neither Optuna nor the
script that defined the study. What models print goes to standard error, so it cannot mix with messages.

Told: ``prepare`` (load the data and check that they can be trained on), ``train`` (a whole configuration), ``stop``.
Tells: ``ready``, ``report`` (after each epoch), ``done``, ``stopped``, ``failed``. It does not wait for an answer to a
report: training goes on, and a trial that is to be pruned ends after a step. When its owner is gone, so is it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any

from dropopt.config import RunConfig
from dropopt.study.run.messages import Message

#: How much of a traceback is kept: it is stored with the trial.
TRACE_CHARACTERS = 1500


class _Stopped(Exception):
    """The owner wants no more of this trial."""


class Trainer:
    """Takes messages from ``told`` and answers on ``tell``."""

    def __init__(self, told: IO[str], tell: IO[str], *, load: str, train: str) -> None:
        self._told, self._tell = told, tell
        self._load, self._train = load, train
        self._work: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._trial = -1
        self._stop = False

    def run(self) -> None:
        """Work until the owner closes the pipe."""
        threading.Thread(target=self._listen, daemon=True).start()
        # Importing torch takes seconds: all children do it at once, before the first has read the data.
        # What fails here fails again, and is told, when it is used.
        with contextlib.suppress(Exception):
            resolve(self._load)
        while True:
            message = self._work.get()
            try:
                self._prepare(message) if message["do"] == "prepare" else self._fit(message)
            except _Stopped:
                self._say(kind="stopped", trial=self._trial)
            except (Exception, SystemExit) as error:
                # Nothing that a trial does may end the study.
                self._say(kind="failed", trial=self._trial, **describe(error))
            self._trial = -1
            _free()

    def _listen(self) -> None:
        for line in self._told:
            message = json.loads(line)
            if message["do"] in ("prepare", "train"):
                self._work.put(message)
            elif message["trial"] == self._trial:
                self._stop = True
        os._exit(0)  # the owner is gone, whatever this process is in the middle of

    def _prepare(self, message: Message) -> None:
        data = resolve(self._load)(RunConfig.parse(message["run"]))
        self._say(
            kind="ready",
            classes=len(data.classes),
            fingerprint=dict(data.fingerprint),
            notices=list(data.notices),
        )

    def _fit(self, message: Message) -> None:
        self._stop = False
        self._trial = message["trial"]
        began = time.monotonic()
        train = resolve(self._train)
        with self._stopping_in_steps():
            result, *_ = train(RunConfig.parse(message["run"]), self._on_epoch)
        self._say(
            kind="done",
            trial=self._trial,
            smoothed_loss=float(result.smoothed_loss),
            best_epoch=int(result.best_epoch),
            best_val_loss=float(result.best_val_loss),
            best_val_accuracy=float(result.best_val_accuracy),
            seconds=round(time.monotonic() - began, 3),
        )

    def _on_epoch(self, report: Any) -> None:
        names = ("epoch", "epochs", "train_loss", "val_loss", "val_accuracy", "smoothed_loss")
        self._say(kind="report", trial=self._trial, **{name: getattr(report, name) for name in names})
        self._check()

    def _check(self, *_: Any) -> None:
        if self._stop:
            raise _Stopped

    @contextlib.contextmanager
    def _stopping_in_steps(self) -> Iterator[None]:
        """Whatever steps an optimizer of torch meanwhile stops when told to."""
        if "torch" not in sys.modules:
            yield
            return
        from torch.optim.optimizer import register_optimizer_step_post_hook

        handle = register_optimizer_step_post_hook(self._check)
        try:
            yield
        finally:
            handle.remove()

    def _say(self, **message: Any) -> None:
        self._tell.write(json.dumps(message) + "\n")
        self._tell.flush()


def describe(error: BaseException) -> dict[str, str]:
    """An error's class, message, file and line, and the end of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    trace = "".join(traceback.format_exception(error))
    return {
        "error": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "where": f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "nowhere",
        "trace": trace[-TRACE_CHARACTERS:],
    }


def resolve(name: str) -> Any:
    """The function that ``module:function`` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _free() -> None:
    """Give back what the last trial held before the next one starts."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Entry point of the child process: ``python -m dropopt.study.run.trainer LOAD TRAIN``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    told = os.fdopen(os.dup(0), encoding="utf-8")
    tell = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    load, train = sys.argv[1:]
    Trainer(told, tell, load=load, train=train).run()


if __name__ == "__main__":
    main()
