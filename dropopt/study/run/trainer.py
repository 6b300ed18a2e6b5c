"""The child process of a slot: trains the configurations that it receives, one at a time, and reports.

It reads and writes the messages of :mod:`dropopt.study.run.messages` on its standard input and output, and imports
neither Optuna nor the script that defines the study. Whatever a model prints goes to standard error, so that it cannot
mix with the messages.

It does not wait for an answer to a report: training continues, and a trial that is to be pruned ends after its current
step. The process ends when its owner closes the pipe.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from dropopt.owncode import message_of
from dropopt.study.run import memory
from dropopt.study.run.messages import (
    Done,
    Failed,
    FromTrainer,
    Prepare,
    Ready,
    Report,
    Stop,
    Stopped,
    Train,
    decode_to_trainer,
    encode,
)
from dropopt.study.run.weights import write_weights
from dropopt.trust import sources

#: Characters of a traceback that are kept, from its end: it is stored with the trial.
TRACE_CHARACTERS = 1500
#: Characters of an error's message that are kept, from its beginning.
MESSAGE_CHARACTERS = 5000


class _StopTraining(Exception):
    """Ends the current trial, because the owner has sent :class:`Stop`."""


class Trainer:
    """Reads messages from ``source`` and writes messages to ``sink``.

    Args:
        source: The stream of messages from the owner.
        sink: The stream of messages to the owner.
        load: The function that loads the data, as ``module:function``.
        train: The function that trains, as ``module:function``.
    """

    def __init__(self, source: IO[str], sink: IO[str], *, load: str, train: str) -> None:
        self._source, self._sink = source, sink
        self._load, self._train = load, train
        self._work: queue.SimpleQueue[Prepare | Train] = queue.SimpleQueue()
        self._trial: int | None = None
        self._stop = False

    def run(self) -> None:
        """Work until the owner closes the pipe."""
        threading.Thread(target=self._listen, daemon=True).start()
        # Importing torch takes seconds: all children do it at the same time, before the first has read the data. An
        # error here is raised and reported again when the function is called.
        with contextlib.suppress(Exception):
            resolve(self._load)
        while True:
            self._handle(self._work.get())
            self._trial = None
            _free_memory()

    def _listen(self) -> None:
        try:
            for line in self._source:
                message = decode_to_trainer(line)
                if not isinstance(message, Stop):
                    self._work.put(message)
                elif message.trial == self._trial:
                    self._stop = True
        except Exception:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # the owner has ended, so nobody would receive the result

    def _handle(self, message: Prepare | Train) -> None:
        try:
            self._send(self._prepare(message) if isinstance(message, Prepare) else self._fit(message))
        except _StopTraining:
            self._send(Stopped(_running(self._trial)))
        except BaseException as error:  # nothing that a trial does may end the study; Ctrl-C reaches only the owner
            self._send(failure(self._trial, error))

    def _prepare(self, message: Prepare) -> Ready:
        code = {module: source.sha256 for module, source in sources(message.run.names).items()}
        prepared = resolve(self._load)(message.run)
        data = prepared.data
        return Ready(
            classes=len(data.classes),
            fingerprint=dict(data.fingerprint),
            notices=list(prepared.notices),
            sites=dict(prepared.sites),
            complexity=prepared.complexity,
            facts=getattr(prepared, "facts", None),
            code=code,
        )

    def _fit(self, message: Train) -> Done:
        self._stop = False
        self._trial = message.trial
        began = time.monotonic()
        train = resolve(self._train)
        with self._stopping_between_steps():
            if message.checkpoint is None:
                result, model, *_ = train(message.run, self._on_epoch)
            else:
                path = Path(message.checkpoint)
                result, model, *_ = train(message.run, self._on_epoch, checkpoint=path, on_resume=self._on_resume)
            if message.weights is not None and model is not None:
                write_weights(model, Path(message.weights))
        return Done(
            trial=message.trial,
            objective=float(result.objective),
            best_epoch=int(result.best_epoch),
            best_val_loss=float(result.best_val_loss),
            best_val_accuracy=float(result.best_val_accuracy),
            seconds=round(time.monotonic() - began, 3),
            scores={name: float(value) for name, value in result.scores.items()},
        )

    def _on_epoch(self, report: Any) -> None:
        self._report(report)
        self._check()

    def _on_resume(self, reports: Iterable[Any]) -> None:
        """Repeat the reports of the epochs before the checkpoint: the owner may have died before it read them."""
        for report in reports:
            self._report(report)

    def _report(self, report: Any) -> None:
        self._send(
            Report(
                trial=_running(self._trial),
                epoch=int(report.epoch),
                epochs=int(report.epochs),
                train_loss=float(report.train_loss),
                val_loss=float(report.val_loss),
                val_accuracy=float(report.val_accuracy),
                smoothed_loss=float(report.smoothed_loss),
                objective=float(report.objective),
                rates={row["site"]: float(row["applied"]) for row in getattr(report, "rates", ())},
                weights={name: float(weight) for name, weight in getattr(report, "weights", {}).items()},
            )
        )

    def _check(self, *_: Any) -> None:
        if self._stop:
            raise _StopTraining

    @contextlib.contextmanager
    def _stopping_between_steps(self) -> Iterator[None]:
        """Check after every step of any torch optimizer whether the trial should stop."""
        if "torch" not in sys.modules:
            yield
            return
        from torch.optim.optimizer import register_optimizer_step_post_hook

        handle = register_optimizer_step_post_hook(self._check)
        try:
            yield
        finally:
            handle.remove()

    def _send(self, message: FromTrainer) -> None:
        self._sink.write(encode(message))
        self._sink.flush()


def failure(trial: int | None, error: BaseException) -> Failed:
    """Describe an error: its class, message, file and line, and the end of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    trace = "".join(traceback.format_exception(error))
    return Failed(
        trial=trial,
        error=type(error).__name__,
        message=(message_of(error) or type(error).__name__)[:MESSAGE_CHARACTERS],
        where=f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "nowhere",
        trace=trace[-TRACE_CHARACTERS:],
        out_of_memory=memory.ran_out(error),
    )


def resolve(name: str) -> Any:
    """Return the function that ``module:function`` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _running(trial: int | None) -> int:
    if trial is None:
        raise RuntimeError("no trial is running")
    return trial


def _free_memory() -> None:
    """Free the memory of the last trial before the next one starts."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Entry point of the child process: ``python -m dropopt.study.run.trainer LOAD TRAIN``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C
    memory.prefer_as_victim()
    source = os.fdopen(os.dup(0), encoding="utf-8")
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    load, train = sys.argv[1:]
    Trainer(source, sink, load=load, train=train).run()


if __name__ == "__main__":
    main()
