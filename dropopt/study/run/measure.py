"""How long an epoch takes on this machine, measured by training one in a child process."""

from __future__ import annotations

from dropopt.config import RunConfig
from dropopt.study.run.errors import StudyError
from dropopt.study.run.failures import error_of
from dropopt.study.run.machine import cards
from dropopt.study.run.messages import Done, Failed, Prepare, Ready, Train
from dropopt.study.run.signals import SIGNAL_SECONDS, SIGNALS, SignalCatcher
from dropopt.study.run.slots import Died, Pool, Targets

#: Seconds between two looks at the child process.
_TICK = 0.25


def seconds_of_an_epoch(base: RunConfig, signals: SignalCatcher, targets: Targets | None = None) -> float | None:
    """Train one epoch of ``base`` in a child process and return how long it took; None if a signal arrived.

    Raises:
        ConfigError: The data or the network cannot be used.
        StudyError: The child process died.
    """
    run = base.model_copy(update={"train": base.train.model_copy(update={"epochs": 1})})
    with (
        Pool(1, targets or Targets(), cards(base.train.device)) as pool,
        signals.guarding(on_first=pool.wake, on_second=pool.kill),
    ):
        pool.send(0, Prepare(run))
        while signals.received is None:
            event = pool.wait(_TICK)
            content = None if event is None else event.content
            if isinstance(content, Ready):
                pool.send(0, Train(0, run))
            elif isinstance(content, Done):
                return content.seconds
            elif isinstance(content, Failed):
                raise error_of(content, "an epoch cannot be trained")
            elif isinstance(content, Died) and not (content.signal in SIGNALS and signals.wait(SIGNAL_SECONDS)):
                raise StudyError(f"an epoch cannot be trained: {content.reason}")
    return None
