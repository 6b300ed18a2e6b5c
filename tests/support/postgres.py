"""A PostgreSQL server for tests: started in a temporary folder by the test itself, and restarted in the middle."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from ports import free_port
from processes import children, send

from dropopt.study.store.opening import close, open_storage


def binaries():
    """Return the folder of PostgreSQL's programs; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Server:
    """A server with a user, a password and a database called ``studies``."""

    def __init__(self):
        self._bin = binaries()
        if self._bin is None:
            pytest.skip("PostgreSQL is not installed")
        pytest.importorskip("psycopg")
        self._folder = Path(tempfile.mkdtemp(prefix="dropopt-postgres-"))
        self.port = free_port()
        self.url = f"postgresql+psycopg://postgres:canary@127.0.0.1:{self.port}/postgres"
        # The server refuses to run as root.
        self._user = [] if os.getuid() else ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if self._user:
            os.chown(self._folder, 65534, 65534)
        password = self._folder / "password"
        password.write_text("canary")
        password.chmod(0o644)
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password, "-N")
        self.start()

    @property
    def _data(self):
        return self._folder / "data"

    def _run(self, program, *arguments):
        line = [*self._user, str(self._bin / program), *map(str, arguments)]
        subprocess.run(line, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self):
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-o", options, "-l", self._folder / "log", "start")

    def stop(self, mode="immediate"):
        """Stop the server; ``immediate`` is what a crash does."""
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    @contextlib.contextmanager
    def frozen(self):
        """Stop all processes of the server in the block: nobody answers, and connections stay open."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        send([first], signal.SIGSTOP)  # from now on it starts no others
        others = children(first)
        send(others, signal.SIGSTOP)
        try:
            yield
        finally:
            send([*others, first], signal.SIGCONT)

    def clear(self):
        """Delete all studies; the server is started if a test has left it stopped."""
        if not (self._data / "postmaster.pid").exists():
            self.start()
        storage = open_storage(self.url)
        for study in storage.get_all_studies():
            storage.delete_study(study._study_id)
        close(storage)

    def remove(self):
        """Stop the server and remove its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
