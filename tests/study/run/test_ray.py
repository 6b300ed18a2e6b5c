"""The connection to a Ray cluster and the slots on it, with a stand-in for Ray that writes down what it is asked."""

import logging
import os
import queue
import signal
import sys
import threading
import time
import warnings
from types import ModuleType, SimpleNamespace

import pytest

from dropopt.config import ConfigError
from dropopt.study.run import cluster, ray_slots
from dropopt.study.run.cluster import Cluster
from dropopt.study.run.messages import Stop, Stopped, encode
from dropopt.study.run.slots import Died, Event, Targets

SILENT = {"log_to_driver": False, "logging_level": logging.CRITICAL}


class RayError(Exception):
    """As in ``ray.exceptions``."""


@pytest.fixture(name="ray")
def _ray(monkeypatch):
    """A module ``ray`` whose cluster is that of ``ray.clusters``, by address."""
    ray, exceptions = ModuleType("ray"), ModuleType("ray.exceptions")
    exceptions.RayError = RayError
    ray.log, ray.clusters, ray.on_init = [], ("auto", "local"), lambda: None
    ray.connected = False
    ray.is_initialized = lambda: ray.connected
    ray.shutdown = lambda: ray.log.append("shutdown")
    ray.nodes = lambda: [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 64.0}},
        {"Alive": True, "Resources": {"CPU": 9.0}},
    ]

    def init(address, **options):
        ray.log.append((address, options))
        ray.on_init()
        if address not in ray.clusters:
            raise ConnectionError(f"\n  no cluster at {address}\nmore")

    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.machine, "cores", lambda: 6)
    return ray


def test_which_cluster_is_used(ray, monkeypatch):
    """The one given, else that of RAY_ADDRESS, else one of this machine, else a new one here; each ends again."""
    asked = []
    monkeypatch.setattr(cluster, "_check_answers", asked.append)
    here = {"include_dashboard": False, "num_cpus": 6, "object_store_memory": 100_000_000}
    ray.clusters = ("a:1", "b:2", "auto", "local")
    with pytest.raises(KeyError), Cluster().connected():
        raise KeyError
    monkeypatch.setenv("RAY_ADDRESS", "b:2")
    with Cluster().connected(), Cluster("a:1").connected():
        pass
    assert asked == ["auto", "b:2", "a:1"]
    attempts = [("auto", SILENT), "shutdown", ("b:2", SILENT), ("a:1", SILENT), "shutdown", "shutdown"]
    assert ray.log == attempts
    monkeypatch.delenv("RAY_ADDRESS")
    ray.clusters = ("local",)
    with Cluster().connected():
        pass
    assert ray.log[6:] == [("auto", SILENT), ("local", SILENT | here), "shutdown"]
    ray.connected = True
    with Cluster("a:1").connected():
        pass
    assert len(ray.log) == 9


def test_a_cluster_that_refuses(ray):
    """The first line of Ray's error; a given address is not replaced by another cluster."""
    ending = r"(one starts with: ray start --head)"
    for address, place in ((None, "this machine"), ("x", "x")):
        ray.clusters, ray.log[:] = (), []
        with pytest.raises(ConfigError) as caught, Cluster(address).connected():
            pass
        assert len(ray.log) == (2 if address is None else 1)
        last = "local" if address is None else "x"
        assert str(caught.value) == f"no Ray cluster can be used at {place}: no cluster at {last} {ending}"

    def fail():
        raise ValueError

    ray.on_init = fail
    with pytest.raises(ConfigError, match="at this machine: ValueError"), Cluster().connected():
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_an_address_is_tried_first(monkeypatch, address):
    """Host and port, with a limit of time; other addresses are Ray's to interpret."""
    made = []
    socket = SimpleNamespace(close=lambda: made.append("closed"))
    monkeypatch.setattr(cluster.socket, "create_connection", lambda *given: made.append(given) or socket)
    cluster._check_answers(address.format(6379))
    assert made == [(("::1" if "[" in address else "127.0.0.1", 6379), 10), "closed"]
    for other in ("auto", "local", "host:name", "ray://host"):
        cluster._check_answers(other)
    assert len(made) == 2


def test_ray_changes_nothing_here(ray, monkeypatch):
    """Signals stay as they are, the storage's URL is hidden from Ray's processes, and no usage is reported."""
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:secret@host/db")
    handler = signal.getsignal(signal.SIGTERM)
    for given, inside in ((None, "0"), ("1", "1")):
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
        if given:
            monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", given)
        seen = []

        def on_init(seen=seen):
            seen.extend((os.environ.get("OPTUNA_STORAGE"), os.environ["RAY_USAGE_STATS_ENABLED"]))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            warnings.warn("Ray's own", FutureWarning, stacklevel=2)

        ray.on_init = on_init
        with Cluster().connected():
            assert seen == [None, inside]
        assert os.environ["OPTUNA_STORAGE"] == "postgresql://me:secret@host/db"
        assert os.environ.get("RAY_USAGE_STATS_ENABLED") == given
        assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.delenv("OPTUNA_STORAGE")
    ray.on_init = lambda: None
    thread = threading.Thread(target=lambda: Cluster()._connect())
    thread.start()
    thread.join()
    assert "OPTUNA_STORAGE" not in os.environ
    assert len(ray.log) == 5


def test_how_many_trials_run_on_a_cluster(ray):
    """As many as fit on the living nodes now, unless a number is given."""
    assert cluster.count_nodes() == 2
    assert (Cluster().slots(-1), Cluster(cpus=2).slots(-1), Cluster(gpus=0.5).slots(-1)) == (13, 6, 2)
    assert Cluster(cpus=99).slots(3) == 3
    for number, gpus in ((0, 0.0), (-2, 0.0)):
        with pytest.raises(ConfigError, match=f"n-jobs must be 1 or more, or -1 for one per core, got {number}"):
            Cluster(gpus=gpus).slots(number)
    with pytest.raises(ConfigError) as caught:
        Cluster(cpus=10, gpus=2).slots(-1)
    assert str(caught.value) == (
        "no node of the Ray cluster has 10 CPUs and 2 GPUs for a trial; give smaller --cpus-per-trial and "
        "--gpus-per-trial, or a number with --n-jobs to wait for new nodes"
    )


class _Method:
    """A method of an actor that is called in another process."""

    def __init__(self, group, work):
        self.group, self.remote = group, work

    def options(self, *, concurrency_group):
        assert concurrency_group == self.group
        return self


class Actor:
    """A stand-in for an actor: ``output`` holds what its child writes."""

    def __init__(self):
        self.output, self.sent = queue.SimpleQueue(), []
        self.send = _Method("sending", self.sent.append)
        self.receive = _Method("receiving", self.output.get)


def test_slots_on_a_cluster(ray, monkeypatch):
    """What each actor is asked for and given; its output until its end; it is killed without a new start."""
    actors, options = [], []

    def start(*given):
        options.append(given)
        actors.append(Actor())
        return actors[-1]

    def get(found):
        if isinstance(found, Exception):
            raise found
        return found

    def kill(actor, *, no_restart):
        assert no_restart
        actor.output.put(RayError("The actor died. It was killed."))

    ray.get, ray.kill = get, kill
    ray.remote = lambda **wanted: lambda kind: options.append((kind, wanted)) or SimpleNamespace(remote=start)
    monkeypatch.setattr(ray_slots, "for_children", lambda: {"code": "mine"})
    wanted = {"num_cpus": 3, "num_gpus": 0.5, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    wanted["concurrency_groups"] = {"sending": 1, "receiving": 1}
    targets = Targets("a:b", "c:d")
    with ray_slots.RayPool(2, targets, Cluster(cpus=3, gpus=0.5), 10**9) as pool:
        assert options == [(ray_slots.Host, wanted), *[(targets, None, 10**9, 3, {"code": "mine"})] * 2]
        assert all(slot._relay.daemon for slot in pool._slots)
        pool.send(1, Stop(3))
        assert [actor.sent for actor in actors] == [[], [Stop(3)]]
        actors[1].output.put([encode(Stopped(3)).encode(), encode(Stopped(4)).encode()])
        assert [pool.wait(10) for _ in range(2)] == [Event(1, Stopped(3)), Event(1, Stopped(4))]
        actors[0].output.put([Died("it fell"), b"more"])
        assert pool.wait(10) == Event(0, Died("it fell"))
        pool._slots[0].close()
        assert not pool._slots[0]._relay.is_alive()
        actors[1].output.put(RayError("x"))
        assert pool.wait(10) == Event(1, Died("its Ray actor ended: x"))

        def dead(message):
            raise RayError

        actors[1].send.remote = dead
        pool.send(1, Stop(3))  # its end is reported anyway
        pool.replace(0)
    pool._slots[0]._relay.join(10)
    assert not any(slot._relay.is_alive() for slot in pool._slots)
    ray.kill = None  # a cluster that has ended
    pool._slots[0]._kill()
    monkeypatch.setattr(ray_slots, "KILL_SECONDS", 0.01)
    with ray_slots.RayPool(1, targets, Cluster()):
        assert options[-1] == (targets, "", None, 1, {"code": "mine"})
        ray.kill = lambda *_, **__: time.sleep(0.01)


def test_what_an_actor_does(monkeypatch):
    """It starts a child with the code of the process that owns the study, and returns all output that has arrived."""
    adopted, made, sent = [], [], []

    def start(*given):
        made.append(given)
        return SimpleNamespace(send=sent.append)

    monkeypatch.setattr(ray_slots, "adopt", adopted.append)
    monkeypatch.setattr(ray_slots, "Slot", start)
    targets = Targets()
    host = ray_slots.Host(targets, "0", 10**9, 3, {"code": "mine"})
    targets_, card, limit, receive, threads = made[0]
    assert (adopted, targets_, card, limit, threads) == ([{"code": "mine"}], targets, "0", 10**9, 3)
    host.send(Stop(3))
    assert sent == [Stop(3)]
    for found in (b"a", b"b"):
        receive(None, found)
    assert host.receive() == [b"a", b"b"]
    threading.Timer(0.05, receive, (None, Died("it fell"))).start()
    assert host.receive() == [Died("it fell")]
