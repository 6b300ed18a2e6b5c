"""Optuna's storage proxy: studies through it, and what happens when it or its database is restarted."""

import os
import subprocess
import sys
import time

import fake_study
import pytest
from optuna.study import StudyDirection
from outside import check_whole, finish, read_until, reporting, start, trials
from ports import free_port
from processes import wait_until

from dropopt.config import ConfigError
from dropopt.study.store.opening import close, open_storage

pytest.importorskip("grpc")


class Proxy:
    """``dropopt storage-proxy`` in a process of its own, on a free port."""

    def __init__(self, storage):
        self._storage = storage
        self._port = free_port()
        self.url = f"grpc://127.0.0.1:{self._port}"
        self.start()

    def start(self):
        """Start the server and wait for its first line."""
        line = [sys.executable, "-m", "dropopt", "storage-proxy", "--port", str(self._port)]
        environment = os.environ | {"OPTUNA_STORAGE": str(self._storage)}
        self.process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
        self.said = self.process.stdout.readline()

    def kill(self):
        """Kill the server, as a crash does."""
        self.process.kill()
        self.process.communicate()


def test_studies_outlive_restarts_of_the_proxy_and_of_its_database(server):
    """Two workers wait, and nothing is lost or runs twice; the password is not shown."""
    proxy = Proxy(server.url)
    options = {"n_trials": 6, "pruner": "none", "storage_patience": 60, "grace": 3}
    workers = [start(proxy.url, **options) for _ in range(2)]
    try:
        wait_until(lambda: len(reporting(server.url)) == 2)
        proxy.kill()
        said = "".join(read_until(process, "storage unreachable, retrying") for process in workers)
        proxy.start()
        server.stop()
        time.sleep(0.5)
        server.start()
        for process in workers:
            code, out = finish(process)
            assert code == 0, out
            assert "storage reachable again" in out
            assert "canary" not in said + out + proxy.said
        found = trials(proxy.url)
        check_whole(found, 6)
        assert len({trial.user_attrs["worker"] for trial in found}) == 2
    finally:
        proxy.kill()


def test_a_call_about_a_study_that_does_not_exist_fails_alone(tmp_path):
    """The proxy still serves the other studies."""
    proxy = Proxy(tmp_path / "s.db")
    try:
        storage = open_storage(proxy.url)
        with pytest.raises(KeyError):
            storage.get_study_directions(99)
        assert storage.create_new_study([StudyDirection.MINIMIZE], "other") == 1
        close(storage)
    finally:
        proxy.kill()


def test_a_missing_package_is_an_error(monkeypatch):
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match=r"pip install 'dropopt\[grpc\]'"):
        open_storage("grpc://host:13000")


def test_a_proxy_that_stays_away_or_is_not_one_is_an_error(tmp_path):
    """One line says what to type; a proxy of a SQLite file has its lock."""
    with pytest.raises(ConfigError, match="does not answer; start it with: dropopt storage-proxy"):
        open_storage("grpc://127.0.0.1:1")
    with pytest.raises(ConfigError, match="give grpc://HOST:PORT") as caught:
        open_storage("grpc://user:canary@host:1")
    assert "canary" not in str(caught.value)
    proxy = Proxy(tmp_path / "s.db")
    try:
        process = start(proxy.url, seconds=0.05, n_trials=1000, storage_patience=0.5)
        wait_until(lambda: any(trial.state.name == "COMPLETE" for trial in trials(proxy.url)))
        with pytest.raises(ConfigError, match="give the address of the proxy instead") as refused:
            fake_study.run(f"sqlite:///{tmp_path}/s.db", n_trials=1000)
        assert f"is in use by dropopt storage-proxy (process {proxy.process.pid})" in str(refused.value)
    finally:
        proxy.kill()
    code, out = finish(process)
    assert (code, "Traceback" in out) == (1, False), out
    assert out.splitlines()[-1].startswith("dropopt: the storage has been unreachable for")
