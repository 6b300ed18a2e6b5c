"""Slots on a Ray cluster: each is an actor on some node, with a child process that trains.

The child is the same as on one machine (:class:`~dropopt.study.run.slots.Slot`), so it is limited, watched and
described in the same way. The actor passes messages on. Only the process that called ``dropopt run`` uses the storage,
so the nodes need neither its URL nor a driver. They need dropopt, and the user's code at the same paths.

When a node dies, its actors die. The worker replaces them on other nodes, and their trials continue from their
checkpoints, if the nodes share the folder of the checkpoints.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dropopt.owncode import adopt, for_children
from dropopt.study.run.cluster import Cluster
from dropopt.study.run.messages import ToTrainer
from dropopt.study.run.slots import KILL_SECONDS, Child, Died, Pool, Slot, Targets

#: The groups of an actor's methods. Each has one thread, so that messages keep their order.
_SENDING, _RECEIVING = "sending", "receiving"

#: Characters of Ray's description of an error that are kept.
REASON_CHARACTERS = 300


class Host:
    """The actor: starts a child process and passes its messages on.

    Args:
        targets: The functions that the child calls.
        card: The GPUs that the child sees; None for those that Ray has given to the actor.
        memory_limit: Bytes of memory at which the child is killed; None for no limit.
        threads: The number of compute threads of the child.
        code: What :func:`dropopt.owncode.for_children` returns in the process that owns the study.
    """

    def __init__(
        self, targets: Targets, card: str | None, memory_limit: int | None, threads: int, code: Mapping[str, str]
    ) -> None:
        adopt(code)
        self._output: queue.SimpleQueue[bytes | Died] = queue.SimpleQueue()
        self._slot = Slot(targets, card, memory_limit, lambda _, found: self._output.put(found), threads)

    def send(self, message: ToTrainer) -> None:
        """Send a message to the child."""
        self._slot.send(message)

    def receive(self) -> list[bytes | Died]:
        """Wait for output of the child, and return all that has arrived."""
        found = [self._output.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._output.get_nowait())
        return found


class RemoteSlot:
    """A child process on a node of the cluster.

    Args:
        host: The handle of the actor.
        receive: Called from another thread with each line that the child writes, and finally with a :class:`Died`.
    """

    def __init__(self, host: Any, receive: Callable[[Child, bytes | Died], None]) -> None:
        self._host = host
        self._receive = receive
        self._relay = threading.Thread(target=self._run, daemon=True)
        self._relay.start()

    def send(self, message: ToTrainer) -> None:
        """Send a message to the child; does nothing if it is dead, because its end is reported anyway."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            self._host.send.options(concurrency_group=_SENDING).remote(message)

    def kill(self) -> None:
        """Kill the actor, which ends its child, in another thread: the cluster may not answer."""
        threading.Thread(target=self._kill, daemon=True).start()

    def close(self) -> None:
        """Wait for the end of an actor that was killed."""
        self._relay.join(KILL_SECONDS)

    def _kill(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # it has ended, or the cluster has
            ray.kill(self._host, no_restart=True)

    def _run(self) -> None:
        """Receive the output of the child until it dies."""
        import ray

        try:
            while True:
                for found in ray.get(self._host.receive.options(concurrency_group=_RECEIVING).remote()):
                    self._receive(self, found)
                    if isinstance(found, Died):
                        return
        except Exception as error:  # Ray has many classes of errors, and each of them ends this slot
            self._receive(self, _died(error))


class RayPool(Pool):
    """A pool whose children run on the nodes of a Ray cluster.

    Args:
        size: The number of slots. Those that find no free node wait for one.
        targets: The functions that the children call.
        cluster: What each trial gets. This process must be connected to the cluster.
        memory_limit: Bytes of memory at which a child is killed; None for no limit.
    """

    def __init__(self, size: int, targets: Targets, cluster: Cluster, memory_limit: int | None = None) -> None:
        import ray

        self._threads = cluster.cpus
        self._card = None if cluster.gpus else ""  # Ray shows the actor its GPUs; without any, it must not see all
        self._code = for_children()
        self._actor: Any = ray.remote(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=0,  # the worker replaces it, and sends the trial again
            concurrency_groups={_SENDING: 1, _RECEIVING: 1},
            scheduling_strategy="SPREAD",
        )(Host)
        super().__init__(size, targets, memory_limit=memory_limit)

    def _start(self, index: int) -> Child:
        host = self._actor.remote(self._targets, self._card, self._memory_limit, self._threads, self._code)
        return RemoteSlot(host, self._receive)


def _died(error: Exception) -> Died:
    """Return how an actor ended, from Ray's error."""
    text = str(error)
    if "node has died" in text or "node died" in text or "NodeDied" in type(error).__name__:
        return Died("its node has died", lost_machine=True)
    if "OutOfMemory" in type(error).__name__ or "low on memory" in text.lower():  # Ray's memory monitor
        return Died("Ray ended it, because the memory of its node ran out", out_of_memory=True)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    sentence = lines[-1].partition(". ")[0] if lines else type(error).__name__
    return Died(f"its Ray actor ended: {sentence}"[:REASON_CHARACTERS])
