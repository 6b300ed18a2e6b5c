"""The interface between the worker and whatever runs trials.

:class:`~dropopt.study.run.slots.Pool` runs them in child processes of this machine, and
:class:`~dropopt.study.run.ray_slots.RayPool` on the nodes of a Ray cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dropopt.study.run.messages import FromTrainer, ToTrainer


@dataclass(frozen=True)
class Died:
    """The trainer of a slot has ended; the slot must be replaced before it can be used again."""

    #: How it ended, such as ``its process ended with exit code 1: Bus error``.
    reason: str
    #: Whether it ended because memory ran out.
    out_of_memory: bool = False
    #: The number of the signal that ended it; 0 if it ended otherwise.
    signal: int = 0
    #: Whether its whole machine was lost, so that neither the trial nor the data can be the cause.
    lost_machine: bool = False


@dataclass(frozen=True)
class Event:
    """What happened in a slot."""

    slot: int
    content: FromTrainer | Died


class Executor(Protocol):
    """A fixed number of slots, each with a trainer that runs one trial at a time.

    A slot is identified by its index, from 0 to ``size`` - 1.
    """

    @property
    def size(self) -> int:
        """The number of slots."""

    def send(self, slot: int, message: ToTrainer) -> None:
        """Send a message to the trainer of a slot.

        Does not raise if that trainer is dead: :meth:`wait` reports its death.
        """

    def wait(self, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one, or after :meth:`wake`."""

    def wake(self) -> None:
        """End a running :meth:`wait`. Safe in any thread."""

    def replace(self, slot: int) -> None:
        """End the trainer in a slot and start a new one. No further event of the old one is reported."""

    def kill(self) -> None:
        """End all trainers at once, without waiting. Safe to call more than once, and in any thread."""
