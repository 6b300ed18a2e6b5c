"""The password in the URL of a storage stays in the process that opens it: no output and no file contains it."""

import contextlib
import gc
import os
import threading
import time
import urllib.request
from pathlib import Path

import fake_study
import pytest
from outside import Outside
from processes import launch

from dropopt.study.session import session
from dropopt.study.session.request import Request
from dropopt.study.show import dashboard
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.url import _warn_of_password

#: The password of the server, and of the URLs without a server.
SECRET = "canary"
NOWHERE = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db"


@pytest.fixture(autouse=True)
def _here(here):
    """Use an empty working folder whose name does not contain the secret."""
    assert SECRET not in str(Path.cwd())
    _warn_of_password.cache_clear()


def children(pid):
    """What the list of processes shows of the descendants of ``pid``: their arguments and environments."""
    shown = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
            # A child that has not started its program yet is a copy of its parent, with its parent's environment.
            if parent == pid and command != Path(f"/proc/{pid}/cmdline").read_bytes():
                shown[folder.name] = command + (folder / "environ").read_bytes()
    return shown


def test_a_password_is_in_no_output_file_page_or_child(server, dropopt, monkeypatch):
    """A study on a server, and every command on it: nothing that they show, write or start contains the password."""
    environment = {**os.environ, "OPTUNA_STORAGE": server.url, "FAKE_SECONDS": "0.1"}
    study = launch(fake_study.__file__, '{"n_trials": 2, "pages": true}', 1, env=environment)
    seen = {}
    while study.poll() is None:
        seen |= children(study.pid)
        time.sleep(0.05)
    output = study.communicate()[0]
    assert study.returncode == 0, output
    assert "postgresql+psycopg://postgres:***@127.0.0.1" in output
    assert SECRET not in output
    assert seen
    assert not [pid for pid, shown in seen.items() if SECRET.encode() in shown]

    for arguments in (
        "status",
        "status --json",
        "export",
        "efficacy --json -o learned.json",
        "run digits --n-trials 0",
    ):
        _, out, err = dropopt(*arguments.split(), "--storage", server.url)
        assert SECRET not in out + err, arguments
    _warn_of_password.cache_clear()  # as in a process that has not warned yet
    assert "set the variable OPTUNA_STORAGE to the URL instead" in dropopt("status", "--storage", server.url)[2]
    written = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert Path("best.yaml") in written
    assert not [path for path, content in written.items() if SECRET.encode() in content]
    gc.collect()  # a connection that a command has left open raises a warning, which is an error

    storage = open_storage(server.url)
    web = dashboard.Server(storage, "127.0.0.1", 0)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    (study,) = storage.get_all_studies()
    try:
        for page in ("", "dashboard", "api/meta", "api/studies", f"api/studies/{study._study_id}"):
            with urllib.request.urlopen(f"http://127.0.0.1:{web.server_port}/{page}", timeout=30) as answer:
                assert SECRET.encode() not in answer.read(), page
    finally:
        web.shutdown()
        web.server_close()
        close(storage)


@pytest.mark.parametrize("command", ["status", "export", "efficacy", "dashboard", "run digits --n-trials 1"])
def test_a_password_is_in_no_error(command, dropopt):
    """A server that refuses the connection, from the option and from the environment."""
    if command.startswith("run"):
        pytest.importorskip("psycopg")
        command += " --storage-patience 0"
    code, out, err = dropopt(*command.split(), "--storage", NOWHERE)
    assert code
    assert SECRET not in out + err


@pytest.mark.parametrize("url", [f"postgresql://me:a@b/{SECRET}@host/db", f"postgresql:me:{SECRET}@host/db"])
def test_a_password_that_is_not_escaped_is_an_error_that_does_not_show_it(url, dropopt):
    """Wherever the URL is typed."""
    for arguments in (("status", "--storage", url), ("status", url), ("run", url), ("train", url), (url,)):
        code, out, err = dropopt(*arguments)
        assert code == 2
        assert SECRET not in out + err, arguments


def test_the_password_of_a_prior_is_not_stored(tmp_path, monkeypatch):
    """The command with which a study began is in its storage, its exports and its reports; the URL is redacted."""
    monkeypatch.setattr("dropopt.study.session.session.load_prior", lambda given, url: None)
    definition = fake_study.make(n_trials=1, prior=f"old@{NOWHERE}")
    command = f"dropopt run fake --prior old@{NOWHERE} --seed 0"
    request = Request(definition, Path(__file__), "study.db", 1, "dropopt run fake", fake_study.FAKE, command=command)
    assert session.run(request) == 0
    assert SECRET.encode() not in Path("study.db").read_bytes()
    with Outside("study.db") as study:
        command = study.user_attrs["made_with"]["command"]
    assert command == "dropopt run fake --prior old@postgresql+psycopg://me:***@127.0.0.1:1/db --seed 0"
