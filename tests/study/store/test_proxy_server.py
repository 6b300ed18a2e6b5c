"""The server of the storage proxy, without a network."""

import sys
from pathlib import Path

import optuna
import pytest

from dropopt.config import ConfigError
from dropopt.study.store import proxy_server
from dropopt.study.store.patient import Patience
from dropopt.study.store.proxy_server import serve
from dropopt.study.store.sqlite_lock import is_held

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("url", ["s.log", "redis://host", "grpc://host:1"])
def test_only_a_database_is_served(url):
    """A journal file and another proxy are not."""
    with pytest.raises(ConfigError, match=rf"^storage {url} cannot be served by Optuna's proxy; give a SQLite file or"):
        serve(url, "localhost", 1, Patience(), lambda: None)


def test_the_server_needs_a_package(monkeypatch):
    """Before the storage is opened."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match=r"^dropopt storage-proxy needs grpcio; type: pip install 'dropopt\[grpc\]'$"):
        serve("sqlite:///s.db", "localhost", 1, Patience(), lambda: None)
    assert not Path("s.db").exists()


@pytest.mark.parametrize(("file", "threads"), [(True, 1), (False, 10)])
def test_a_sqlite_file_is_locked_and_gets_one_call_at_a_time(monkeypatch, file, threads):
    """A server gets ten. The storage is served as Optuna opens it; an address that is in use is one line."""
    served = []

    def run(storage, host, port, thread_pool):
        served.append((type(storage).__module__.partition(".")[0], host, port, thread_pool._max_workers))
        assert is_held(Path("s.db"))
        raise RuntimeError("Failed to bind to address localhost:1\nand more")

    monkeypatch.setattr(optuna.storages, "run_grpc_proxy_server", run)
    if not file:
        monkeypatch.setattr(proxy_server, "file_of", lambda url: None)
    opened = []
    line = r"^localhost port 1 cannot be used \(Failed to bind to address localhost:1\); give another --port or --host$"
    with pytest.raises(ConfigError, match=line):
        serve("sqlite:///s.db", "localhost", 1, Patience(0.0), lambda: opened.append(1))
    assert (served, opened) == ([("optuna", "localhost", 1, threads)], [1])
    assert not is_held(Path("s.db"))
