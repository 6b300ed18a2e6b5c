"""Storages: files and URLs, errors when they cannot be opened, and hidden passwords."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import fake_study
import optuna
import pytest
from fake_study import trials
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from dropopt.config import ConfigError
from dropopt.study.store import opening, sqlite
from dropopt.study.store.opening import Opened, open_storage
from dropopt.study.store.patient import Patience
from dropopt.study.store.queries import find_study
from dropopt.study.store.sqlite_lock import WriterLock
from dropopt.study.store.url import resolve

pytestmark = pytest.mark.usefixtures("here")


def begin(name):
    """Store a study with some attributes."""
    with closing(Opened(resolve(name))) as opened:
        study = optuna.create_study(study_name="s", storage=opened.storage)
        for number in range(9):
            study.set_user_attr(f"a{number}", number)


def test_a_storage_may_be_a_journal_or_a_sqlite_file(tmp_path):
    """A path with a SQLite suffix is a SQLite file, any other path a journal; no other file is left."""
    for path in ("study.log", "study.sqlite3"):
        begin(path)
        assert trials(path, "s") == []
    assert Path("study.sqlite3").read_bytes().startswith(b"SQLite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.log", "study.sqlite3"]


def test_a_percent_sign_in_the_name_of_a_file_is_a_part_of_the_name():
    """SQLAlchemy 2.1 decodes the file in a URL, 2.0 does not."""
    with closing(Opened(resolve("x%41.db"), patience=Patience())):
        assert Path("x%41.db").exists()


def test_any_thread_may_use_a_connection_to_a_sqlite_file():
    """It waits a minute for another writer, and not for the disk at every report (1 is NORMAL)."""
    with closing(Opened("sqlite:///s.db", patience=Patience())) as opened, ThreadPoolExecutor(1) as other:
        settings = []
        for run in (lambda task: task(), lambda task: other.submit(task).result()):
            with run(opened.direct._backend.engine.connect) as connection:
                for name in ("busy_timeout", "synchronous"):
                    settings.append(connection.exec_driver_sql(f"PRAGMA {name}").scalar())
    assert settings == [60_000, 1] * 2


def test_the_default_storage_is_a_single_file(tmp_path, monkeypatch):
    """The default is runs/dropopt.db, with a folder of artifacts; its write-ahead log is merged into it at the end."""
    fake_study.run(None, n_jobs=1, n_trials=1, pages=True)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["dropopt.db", "dropopt.db.artifacts"]
    assert (tmp_path / "runs" / "dropopt.db").read_bytes()[18:20] == b"\x02\x02"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///other.db")
    assert resolve(None) == "sqlite:///other.db"
    assert resolve("given.sqlite3") == "sqlite:///given.sqlite3"


def test_errors_of_storages_that_cannot_be_opened():
    """The error is one line with the storage and the reason, and the file is not changed."""
    Path("text.db").write_text("hello")
    Path("empty.db").touch()
    Path("torn.log").write_text("{torn\n{}\n")
    for name in ("whole.db", "whole.log"):
        begin(name)
    whole = Path("whole.db").read_bytes()
    Path("cut.db").write_bytes(whole[: len(whole) // 3])
    Path("newer.db").write_bytes(whole)
    with closing(sqlite3.connect("newer.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        connection.execute("UPDATE version_info SET library_version = '99.0.0'")
    lines = Path("whole.log").read_text().splitlines(keepends=True)
    Path("damaged.log").write_text("".join([*lines[:5], lines[5][:20], *lines[6:]]))
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for given, message in {
        "text.db": "storage text.db is not a SQLite file",
        "torn.log": "storage torn.log is not a journal file",
        "cut.db": r"storage cut.db cannot be used: database disk image is malformed; .*: sqlite3 cut\.db \.recover",
        "empty.db": r"storage empty.db is empty \(0 bytes\)",
        "newer.db": "newer.db cannot be opened: The runtime optuna version",
        "damaged.log": "damaged at line 6; to keep the lines before it.*head -n 5 damaged.log > repaired.log",
        "text.db/x/y.db": "folder text.db/x cannot be created: Not a directory",
        "foo://u:secret@host/x": r"storage foo://u:\*\*\*@host/x needs a database driver",
        "sqlite:///text.db": "storage text.db is not a SQLite file",
        "postgresql://u:secret@host:x/y": r"storage postgresql://... is not a URL; give sqlite:///FILE.db",
        "postgresql:/u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "postgresql//u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "postgresql:u:secret@host/y": "the storage is neither a file nor a URL; a URL begins with postgresql://",
        "sqlite://": "is lost when this process ends; give a file",
        "sqlite:///": "is lost when this process ends; give a file",
        "what?.db": r"the name of a SQLite file cannot contain a question mark, got what\?.db",
        "/dev/null": "storage /dev/null is not a file; give a URL, a SQLite or a journal file",
        "/dev/zero": "storage /dev/zero is not a file",
    }.items():
        with pytest.raises(ConfigError, match=message) as caught:
            open_storage(resolve(given))
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before
    assert not Path("what").exists()
    with pytest.raises(ConfigError, match=r"no storage at none.db; run a study first"):
        open_storage(resolve("none.db"), create=False)
    assert not Path("none.db").exists()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("database or disk is full", "database or disk is full"),
        ("disk I/O error", "disk I/O error: the disk may be full or may have failed; free space .* and try again"),
    ],
)
def test_a_storage_that_cannot_be_created_leaves_no_file(tmp_path, monkeypatch, message, shown):
    """A disk that is full: one line that says what to do, and neither the database nor its draft."""

    class Full(sqlite3.Connection):
        def execute(self, *_):
            error = sqlite3.OperationalError(message)
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, **options, factory=Full))
    with pytest.raises(ConfigError, match=rf"^storage new\.db cannot be used: {shown}$"):
        open_storage(resolve("new.db"))
    assert list(tmp_path.iterdir()) == []


def test_resolving_a_path_keeps_the_locks_of_open_connections(tmp_path):
    """A plain ``open`` of a connected file would release its POSIX locks, and let other processes damage it."""
    path = tmp_path / "studies"
    owner = sqlite3.connect(path, isolation_level=None)
    owner.execute("CREATE TABLE trials (number)")
    owner.execute("BEGIN EXCLUSIVE")
    assert resolve(str(path)) == f"sqlite:///{path}"
    other = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    owner.close()


def test_files_that_are_not_sqlite_are_journals(tmp_path):
    """Without a SQLite suffix the content decides; an empty or missing file is a journal."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    for name in ("text", "empty", "missing", "."):
        assert resolve(str(tmp_path / name)) == str(tmp_path / name)


def test_reading_never_creates_the_tables(tmp_path):
    """A reader that created the tables of a new file would race with the worker that is creating them."""
    path = tmp_path / "studies.db"
    sqlite3.connect(path).execute("CREATE TABLE alembic_version (version_num TEXT)").connection.close()
    with pytest.raises(ConfigError, match=r"storage .*studies\.db holds no study yet; run one first"):
        open_storage(f"sqlite:///{path}", create=False)
    held = sqlite3.connect(path)
    assert held.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    held.close()


def test_several_processes_may_create_a_storage_at_once(tmp_path):
    """Workers that start at the same time on a new file can all open it."""
    code = """if True:
        import os, sys
        from dropopt.study.store.opening import open_storage
        for _ in range(3):
            if not os.fork():
                break
        open_storage(sys.argv[1])
        os.write(1, b"open ")
    """
    line = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new.db"]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert done.stdout == "open " * 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can create a file")
def test_a_folder_that_accepts_no_file_is_not_taken_for_a_second_writer():
    """The error says that the lock cannot be created, not that another process holds it."""
    with pytest.raises(ConfigError, match=r"storage /proc/x.db cannot be locked: /proc/x.db.lock cannot be created"):
        WriterLock(Path("/proc/x.db"))


@pytest.mark.parametrize(
    ("arguments", "writer"),
    [
        (["/bin/dropopt", "confirm", "--storage", "canary"], r"dropopt confirm \(process \d+\)"),
        (["/x/dropopt/__main__.py", "resume-trial", "canary"], r"dropopt resume-trial \(process \d+\)"),
        (["canary/mine.py", "canary"], r"mine.py \(process \d+\)"),
        (["-c", "canary"], r"Python \(process \d+\)"),
        (None, "another dropopt command"),
    ],
)
def test_the_command_that_writes_to_a_sqlite_file_is_named(tmp_path, monkeypatch, arguments, writer):
    """Without its arguments; None is a version that wrote nothing into the lock file."""
    path = tmp_path / "s.db"
    if arguments is None:
        held = FileLock(path.with_name("s.db.lock"))
        held.acquire()
    else:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            held = WriterLock(path)
    for _ in "12":
        with pytest.raises(ConfigError, match=f"is in use by {writer}, and a SQLite file has one writer") as caught:
            WriterLock(path)
        assert "canary" not in str(caught.value)
    held.release()
    WriterLock(path).release()


def test_a_server_that_goes_away_while_it_is_opened_is_waited_for(monkeypatch):
    """The error of a commit, which Optuna wraps, counts as an outage too."""
    answers = iter([OperationalError("COMMIT", {}, Exception("server closed the connection")), None])
    opened = optuna.storages.InMemoryStorage()

    def open_storage(url):
        if (error := next(answers)) is None:
            return opened
        try:
            raise StorageInternalError("An exception is raised during the commit.") from error
        except StorageInternalError as wrapped:
            raise ConfigError("cannot be opened") from wrapped

    monkeypatch.setattr(opening, "open_storage", open_storage)
    assert Patience(seconds=5).call(lambda: opening._reached("postgresql://host/db")) is opened


@pytest.mark.parametrize("name", ["s.db", "s.log"])
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_a_storage_that_cannot_be_written_is_read_and_only_read(tmp_path, monkeypatch, name, locked):
    """Of another user, or on a read-only disk: nothing is written beside it, and a writer is refused at once."""
    file = tmp_path / name
    with closing(Opened(resolve(name))) as opened:
        study = optuna.create_study(study_name="mine", storage=opened.storage)
        study.add_trial(optuna.trial.create_trial(value=0.5))
    refused = file if locked == "file" else tmp_path
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).absolute() != refused and allowed(path, mode))
    before = {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    with closing(Opened(resolve(name), create=False)) as opened:
        assert [trial.value for trial in find_study(opened.storage, "mine").get_trials()] == [0.5]
        assert {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == before
    with pytest.raises(ConfigError, match=r"is not writable; give another --storage$"):
        Opened(resolve(name), create=False, patience=Patience(0.0, print))


@pytest.mark.parametrize("create", [True, False])
def test_a_log_without_its_file_is_not_taken_into_a_new_file(tmp_path, create):
    """A file that was moved while it was open leaves its last changes behind, and gets them when it is moved back."""
    path = tmp_path / "s.db"
    open_storage(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE more (number INTEGER)")
        connection.commit()
        path.rename(tmp_path / "moved.db")
        with pytest.raises(
            ConfigError, match=r"s\.db is missing, but .*s\.db-wal, which holds its last changes, is there"
        ):
            open_storage(f"sqlite:///{path}", create=create)
        assert not path.exists()
        (tmp_path / "moved.db").rename(path)
        open_storage(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM more").fetchone() == (0,)


@pytest.mark.parametrize(("log", "how"), [(None, "immutable=1"), ("wal", "mode=ro"), ("journal", "mode=ro")])
def test_a_file_that_cannot_be_written_is_opened_to_read(tmp_path, monkeypatch, log, how):
    """With the log that a writer has left, or else as a file that does not change; its mode stays."""
    path = tmp_path / "s %.db"
    opening.close(open_storage(resolve(str(path))))
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite, "is_read_only", lambda _: True)
    monkeypatch.setattr(
        sqlite3, "connect", lambda *given, **options: opened.append(given) or connect(*given, **options)
    )
    if log is not None:
        (tmp_path / f"s %.db-{log}").touch()
    sqlite.prepare_sqlite(path, create=False)
    assert opened == [(f"file:{tmp_path}/s%20%25.db?{how}",)]
    opened.clear()
    sqlite.prepare_sqlite(path, create=True)
    assert opened == [(path,)], "it is to be written, and the error of that is told"


@pytest.mark.parametrize("size", [100_000_000, 100_000_001])
def test_only_files_of_moderate_size_are_checked_for_damage(tmp_path, monkeypatch, size):
    """Up to 100 MB, which takes half a second at most. What SQLite finds is one line, with what to type."""
    path = tmp_path / "s.db"
    answer = ["Page 3:\n  is never used"]

    class Connection:
        def execute(self, statement):
            assert statement == "PRAGMA quick_check(1)"
            return self

        def fetchone(self):
            return answer

    monkeypatch.setattr(Path, "stat", lambda self: SimpleNamespace(st_size=size))
    if size > 100_000_000:
        sqlite._check_pages(Connection(), path)
        return
    line = rf"^storage {path} cannot be used: Page 3: is never used; restore a copy, .*: sqlite3 {path} \.recover"
    with pytest.raises(ConfigError, match=line):
        sqlite._check_pages(Connection(), path)
    answer[:] = ["ok"]
    sqlite._check_pages(Connection(), path)


def test_closing_a_storage_closes_the_innermost_one():
    """Its session, its connection to a proxy and its engine, as far as it has them."""
    done = []
    engine = SimpleNamespace(dispose=lambda: done.append("engine"))
    whole = SimpleNamespace(
        remove_session=lambda: done.append("session"), close=lambda: done.append("close"), engine=engine
    )
    opening.close(SimpleNamespace(inner=SimpleNamespace(inner=whole)))
    assert done == ["session", "close", "engine"]
    done.clear()
    backend = SimpleNamespace(engine=engine)
    opening.close(SimpleNamespace(remove_session=lambda: done.append("session"), _backend=backend))
    assert done == ["session", "engine"]
    opening.close(optuna.storages.InMemoryStorage())
