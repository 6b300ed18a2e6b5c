"""A Ray cluster: the connection to it, and how many trials its nodes can run at a time.

Ray is an optional dependency, and importing it takes a second, so it is imported inside functions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dropopt.config import ConfigError
from dropopt.explain import first_line
from dropopt.numbers import quantity
from dropopt.study.run import machine
from dropopt.study.run.signals import SIGNALS
from dropopt.study.store import url

#: The environment variable with the address of a cluster, which Ray itself reads too.
VARIABLE = "RAY_ADDRESS"

#: Seconds to wait until a cluster accepts a connection.
CONNECT_SECONDS = 10

#: Bytes of Ray's object store on a machine without a cluster, where it holds only messages.
OBJECT_STORE = 100_000_000


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what each trial gets of it.

    Args:
        address: The address of the cluster, such as ``10.0.0.5:6379`` or ``auto``. None for the value of
            ``RAY_ADDRESS``, else a cluster that ``ray start`` has started on this machine, else one that is started
            here and ends with this process.
        cpus: The number of cores of a trial, which is also its number of threads.
        gpus: The number of GPUs of a trial: below 1 for a share of one, or a whole number.

    Raises:
        ConfigError: A number is out of range.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ConfigError(f"cpus-per-trial must be 1 or more, got {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(f"gpus-per-trial must be between 0 and 1, or a whole number, got {self.gpus:g}")

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the cluster for the time of a ``with`` block, unless the process is already connected.

        Raises:
            ConfigError: Ray is not installed, or the cluster does not answer.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--on ray needs Ray; type: pip install 'dropopt[ray]'") from error
        if ray.is_initialized():
            yield
            return
        self._connect()
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        given = self.address or os.environ.get(VARIABLE)
        try:
            _check_answers(given or "auto")
            try:
                _init(given or "auto")
            except ConnectionError:
                if given:
                    raise
                _init("local", include_dashboard=False, num_cpus=machine.cores(), object_store_memory=OBJECT_STORE)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"no Ray cluster can be used at {given or 'this machine'}: {first_line(error)} "
                "(one starts with: ray start --head)"
            ) from error

    def slots(self, n_jobs: int) -> int:
        """Return the number of trials to run at a time.

        Args:
            n_jobs: The requested number; -1 for as many as the nodes can run now.

        Raises:
            ConfigError: ``n_jobs`` is 0 or below -1, or no node can run a trial.
        """
        if n_jobs != -1:
            return machine.slots(n_jobs, 0)
        found = sum(self._fits(node["Resources"]) for node in _nodes())
        if not found:
            raise ConfigError(
                f"no node of the Ray cluster has {quantity(self.cpus, 'CPU')} and {quantity(self.gpus, 'GPU')} for a "
                "trial; give smaller --cpus-per-trial and --gpus-per-trial, or a number with --n-jobs to wait for new "
                "nodes"
            )
        return found

    def _fits(self, resources: dict[str, float]) -> int:
        """Return how many trials fit on a node."""
        trials = int(resources.get("CPU", 0) // self.cpus)
        if not self.gpus:
            return trials
        cards = int(resources.get("GPU", 0))
        shared = cards * int(1 / self.gpus + 1e-9) if self.gpus <= 1 else int(cards // self.gpus)
        return min(trials, shared)


def count_nodes() -> int:
    """Return the number of living nodes of the cluster that this process is connected to."""
    return len(_nodes())


def _nodes() -> list[dict[str, dict[str, float]]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _check_answers(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``address``, where Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _init(address: str, **options: Any) -> None:
    import ray

    with _signals_kept(), _without_secrets(), warnings.catch_warnings(action="ignore"):
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of signals, which Ray replaces when it starts a cluster."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Hide the URL of the storage, which may hold a password, from the processes that Ray starts."""
    changed = {url.VARIABLE: None, "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0")}
    before = {name: os.environ.pop(name, None) for name in changed}
    os.environ.update({name: value for name, value in changed.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
