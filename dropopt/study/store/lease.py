"""Leases: how workers on any machine detect that the worker of a trial has died.

A worker stores an attribute with a counter on each of its running trials, and increases it several times within the
grace period. Other workers read the trial periodically. If it does not change during the grace period, measured by the
*reader's* clock, its worker is considered dead. The method depends neither on the clocks of other machines nor on their
names or process ids.

Two cases need no waiting. In one, the process of the worker ran on this machine since its last boot, and no longer
exists. In the other, the storage has a single writer, which is now the reader.
"""

from __future__ import annotations

import math
import os
import platform
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.study.store.keys import LEASE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

#: Seconds without a heartbeat after which a worker is considered dead.
GRACE = 30.0

#: Leases are renewed, and the leases of other workers are read, this many times within the grace period.
BEATS = 6

#: The time since the last observation counts as at most this many beats. While this process was stopped, or the storage
#: was unreachable, other workers may have been unable to renew their leases too.
LONGEST_GAP = 2


@dataclass(frozen=True)
class WorkerIdentity:
    """The identity of a worker.

    Attributes:
        id: A random id, which no other worker has.
        grace: Seconds without a heartbeat after which others may take over the trials of this worker.
        exclusive: Whether the worker is the only writer of its storage. The next worker can then conclude that it is
            dead.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    grace: float = GRACE
    exclusive: bool = False

    @property
    def interval(self) -> float:
        """Seconds between two renewals of a lease, and between two observations of the leases of others."""
        return self.grace / BEATS

    def lease(self, count: int) -> dict[str, Any]:
        """Return the ``count``-th lease of this worker, as it is stored on a trial."""
        return {
            "worker": self.id,
            "count": count,
            "time": round(time.time(), 3),  # for people; never compared
            "grace": self.grace,
            "exclusive": self.exclusive,
            "process": {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid()), **_machine()},
        }


def lease_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the lease of ``trial``; empty if it has none."""
    found: dict[str, Any] = trial.user_attrs.get(LEASE, {})
    return found


def describe(trial: FrozenTrial) -> str:
    """Return a description of the worker that ran ``trial``."""
    process = _process(trial)
    if not process:
        return "its worker"
    return f"its worker (process {process.get('pid')} on {process.get('host')})"


def certainly_dead(trial: FrozenTrial, reader: WorkerIdentity) -> bool:
    """Whether the worker of a running trial is certainly dead, so that no grace period is needed."""
    lease = lease_of(trial)
    if lease.get("worker") == reader.id:
        return False
    if lease.get("exclusive") and reader.exclusive:
        return True  # there is one writer at a time, and now it is the reader
    process, machine = _process(trial), _machine()
    if not machine.get("boot") or any(process.get(key) != value for key, value in machine.items()):
        return False
    pid, began = process.get("pid"), process.get("began")
    return isinstance(pid, int) and began is not None and _began(pid) != began and not _is_hidden(pid)


def _process(trial: FrozenTrial) -> dict[str, Any]:
    """Return what the lease of a trial says about its worker's process; an empty dictionary if it says nothing."""
    process = lease_of(trial).get("process")
    return process if isinstance(process, dict) else {}


@dataclass
class _Seen:
    """What a reader knows about a running trial."""

    mark: object
    unchanged: float = 0.0  # seconds


class Watch:
    """Observes the running trials of other workers.

    Args:
        reader: The worker that observes.
        clock: Returns the time of a monotonic clock, in seconds.
    """

    def __init__(self, reader: WorkerIdentity, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._last = clock()
        self._seen: dict[int, _Seen] = {}

    def restart(self) -> None:
        """Give all workers a whole grace period again: the storage was unreachable, for them too."""
        self._seen = {}

    def observe(self, trials: Iterable[FrozenTrial], own: Collection[int]) -> list[FrozenTrial]:
        """Observe the running trials of a study, and return those whose worker is dead.

        Args:
            trials: All trials, or at least all running ones, as they are stored now.
            own: The storage's ids of the reader's own running trials.
        """
        from optuna.trial import TrialState

        now = self._clock()
        step, self._last = min(now - self._last, LONGEST_GAP * self._reader.interval), now
        running = {t._trial_id: t for t in trials if t.state == TrialState.RUNNING and t._trial_id not in own}
        known, self._seen = self._seen, {}
        dead = []
        for trial_id, trial in running.items():
            mark = _mark(trial)
            seen = known.get(trial_id)
            if seen is None or seen.mark != mark:
                seen = _Seen(mark)
            else:
                seen.unchanged += step
            self._seen[trial_id] = seen
            if seen.unchanged >= self._grace(trial) or certainly_dead(trial, self._reader):
                dead.append(trial)
        return dead

    def _grace(self, trial: FrozenTrial) -> float:
        """Return the grace period of a trial: its worker's, or the reader's if the lease has none."""
        promised = lease_of(trial).get("grace")
        if isinstance(promised, int | float) and 0 < promised < math.inf:
            return float(promised)
        return self._reader.grace


def _mark(trial: FrozenTrial) -> object:
    """Return everything that a living worker changes about its trial."""
    lease = lease_of(trial)
    return (
        repr((lease.get("worker"), lease.get("count"))),
        len(trial.user_attrs),
        len(trial.system_attrs),
        len(trial.params),
        len(trial.intermediate_values),
    )


def _machine() -> dict[str, str]:
    """Return what makes process ids unique: the boot of this machine and the container's namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:  # macOS and Windows
        return {}


def _is_hidden(pid: int) -> bool:
    """Whether a process exists that /proc does not show: it may be mounted so that others' processes are hidden."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except OSError:
        return False
    return False


def _began(pid: int) -> str | None:
    """Return the start time of a process, in ticks since the boot; None if it is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may contain spaces
    return None if state in "ZX" else rest[18]
