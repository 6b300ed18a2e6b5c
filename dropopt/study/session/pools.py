"""The processes that train the trials of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from dropopt.config import ConfigError
from dropopt.study.run import machine
from dropopt.study.run.cluster import count_nodes
from dropopt.study.run.ray_slots import RayPool
from dropopt.study.run.slots import Pool
from dropopt.study.session.request import Request
from dropopt.study.show.console import say
from dropopt.study.store.url import VARIABLE, file_of


@contextmanager
def start_pool(request: Request, console: Console) -> Iterator[Pool]:
    """Start the processes that train: on this machine, or on the cluster of the request."""
    n_trials, device = request.definition.n_trials, request.settings.base.train.device
    cluster = request.cluster
    if cluster is None:
        cards = machine.cards(device)
        slots = min(machine.slots(request.n_jobs, len(cards)), n_trials)
        with Pool(slots, request.targets, cards, request.memory_limit) as pool:
            yield pool
        return
    if device.startswith("cuda") and not cluster.gpus:
        raise ConfigError(f"the study's device is {device}; give --gpus-per-trial, such as 1 or 0.5")
    say(console, "connecting to Ray")
    with cluster.connected():
        if (nodes := count_nodes()) > 1 and file_of(request.url) is not None:  # only one of them can reach the file
            raise ConfigError(
                f"storage {request.url} is a file of this machine, and the Ray cluster has {nodes} nodes; to resume "
                f"the study from any of them, set {VARIABLE} to the URL of a server: "
                "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
            )
        slots = min(cluster.slots(request.n_jobs), n_trials)
        with RayPool(slots, request.targets, cluster, request.memory_limit) as pool:
            yield pool
