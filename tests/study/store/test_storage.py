"""Storages: files and URLs, what cannot be opened, and what is never shown."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import fake_study
import pytest
from fake_study import trials

from dropopt.config import ConfigError
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.url import redact, resolve


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """A working folder of its own, and no storage from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)


def test_a_storage_may_be_a_journal_or_a_sqlite_file(tmp_path):
    """A path with a SQLite suffix is one, another path is a journal; nothing else is written."""
    for path in ("study.log", "study.sqlite3"):
        fake_study.run(path, n_trials=2)
        assert len(trials(path)) == 2
    assert Path("study.sqlite3").read_bytes().startswith(b"SQLite")
    assert not (tmp_path / "runs").exists()


def test_the_storage_is_one_file_that_stays_open_to_readers(tmp_path, monkeypatch):
    """The default is runs/dropopt.db, in write-ahead mode, and folded into one file at the end."""
    fake_study.run(None, n_trials=2)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["dropopt.db"]
    assert (tmp_path / "runs" / "dropopt.db").read_bytes()[18:20] == b"\x02\x02"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///other.db")
    assert resolve(None) == "sqlite:///other.db"
    assert resolve("given.sqlite3") == "sqlite:///given.sqlite3"


def test_storages_that_cannot_be_opened_say_why():
    """One line: which storage, what is wrong; the file is not touched."""
    Path("text.db").write_text("hello")
    Path("torn.log").write_text("{torn\n{}\n")
    fake_study.run("whole.db", n_trials=1)
    whole = Path("whole.db").read_bytes()
    Path("cut.db").write_bytes(whole[: len(whole) // 3])
    for given, message in {
        "text.db": "storage text.db is not a SQLite file",
        "torn.log": "storage torn.log is not a journal file",
        "cut.db": "storage cut.db cannot be used: database disk image is malformed",
        "text.db/x/y.db": "folder text.db/x cannot be made: Not a directory",
        "foo://u:secret@host/x": r"storage foo://u:\*\*\*@host/x needs a database driver",
        "sqlite:///text.db": "storage text.db is not a SQLite file",
        "postgresql://u:secret@host:x/y": r"storage postgresql://... is not a URL; give sqlite:///FILE.db",
        "postgresql:/u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "postgresql//u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "postgresql:u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "sqlite://": "would be lost with this process; give a file",
        "sqlite:///": "would be lost with this process; give a file",
        "/dev/null": "storage /dev/null is not a file; give a URL, a SQLite or a journal file",
        "/dev/zero": "storage /dev/zero is not a file",
    }.items():
        with pytest.raises(ConfigError, match=message) as caught:
            open_storage(resolve(given))
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert Path("text.db").read_text() == "hello"
    with pytest.raises(ConfigError, match=r"no storage at none.db; run a study first"):
        open_storage(resolve("none.db"), create=False)
    assert not Path("none.db").exists()


def test_a_connected_file_is_not_read(tmp_path, monkeypatch):
    """Reading it would drop the locks of this process's own connections, and so let others damage it."""
    path = tmp_path / "studies.db"
    opened = open_storage(f"sqlite:///{path}")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was opened"))
    assert resolve(str(path)) == f"sqlite:///{path}"
    close(open_storage(f"sqlite:///{path}", create=False))
    close(opened)


def test_one_who_reads_never_makes_the_tables(tmp_path):
    """A reader that comes while a study's file is being made would race with its owner."""
    path = tmp_path / "studies.db"
    sqlite3.connect(path).execute("CREATE TABLE alembic_version (version_num TEXT)").connection.close()
    with pytest.raises(ConfigError, match=r"storage .*studies\.db holds no study yet; run one first"):
        open_storage(f"sqlite:///{path}", create=False)
    held = sqlite3.connect(path)
    assert held.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    held.close()


def test_two_may_open_a_new_storage_at_once(tmp_path):
    """Several workers that start together on a new file all get it."""
    code = "import sys; from dropopt.study.store.opening import open_storage; open_storage(sys.argv[1]); print('open')"
    line = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new.db"]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in started] == ["open\n"] * 4


def test_passwords_are_not_shown():
    """Neither in the usual place nor in the query, whatever signs they contain."""
    assert redact("postgresql://u:secret@host/db?password=secret") == "postgresql://u:***@host/db"
    assert redact("postgresql+psycopg://u:sec@ret/sec@host:5432/db") == "postgresql+psycopg://u:***@host:5432/db"
    assert redact("redis://:secret@host") == "redis://:***@host"
    assert redact("mysql://host/db") == "mysql://host/db"
    for url in ("ht tp://u:secret@host", "a://u:x?secret@host/db", "a://host/db?p=x@secret", "a://u:secret/x"):
        assert "secret" not in redact(url)
