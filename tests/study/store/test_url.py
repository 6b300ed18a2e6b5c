"""URLs of storages: resolved, told without their passwords, and with the reason of an error in one line."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from dropopt.config import ConfigError
from dropopt.study.store import opening, url
from dropopt.study.store.opening import is_storage_error
from dropopt.study.store.proxy import _address, is_remote_outage
from dropopt.study.store.url import file_of, reason, redact, redact_all, resolve, storage_hint


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("postgresql://u:p@host/db", False),
        ("postgresql://u:a%40b@h/db", False),
        ("mysql://h:5432/db?x=a@b", False),
        ("postgresql://u:p@host:5432/db?password=a%40b", False),
        ("postgresql://u:p@[::1]:5432/db", False),
        ("postgresql://host:5432/db?user=a@b", False),
        ("postgresql://[::1]/db?user=a@b", False),
        ("postgresql://host/db?user=a@b", False),
        ("sqlite:///a@b/c@d.db", False),
        ("postgresql://u:p@ss@host/db", True),
        ("postgresql://u:ss@p@host/db", True),
        ("postgresql://u:p@q/ss@host/db", True),
        ("redis://:p@ss@host", True),
        ("postgresql://u:p/ss@host/db", True),
        ("postgresql://u:p?ss@host/db", True),
        ("postgresql://u:p:q?ss@host/db", True),
    ],
)
def test_a_password_whose_characters_must_be_escaped_is_refused(given, refused, capsys):
    """The rest of it would be taken for the host. The message does not have it."""
    if not refused:
        assert resolve(given) == given
        return
    with pytest.raises(
        ConfigError, match=r"has a character that must be escaped: write %40 for @, %3A for :"
    ) as caught:
        resolve(given)
    assert "ss" not in str(caught.value).replace("password", "")


def test_a_password_in_an_option_is_warned_of_once(monkeypatch, capsys):
    """Other users see the arguments of a process, but not its environment."""
    url._warn_of_password.cache_clear()
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://u:secret@host/db")
    assert resolve(None) == "postgresql://u:secret@host/db"
    resolve("postgresql://u@host/db")
    assert capsys.readouterr().err == ""
    for _ in range(2):
        resolve("postgresql://u:secret@host/db")
    told = capsys.readouterr().err
    assert told.count("dropopt: other users of this machine can see the URL in the list of processes; to hide its") == 1
    assert "set the variable OPTUNA_STORAGE to the URL instead of giving --storage\n" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("a/b.log", "a/b.log"),
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:a?mode=memory&uri=true", None),
        ("postgresql://host/db", None),
        ("redis://host", None),
    ],
)
def test_the_file_of_a_storage(given, file):
    """A server and a database in memory have none."""
    assert file_of(given) == (file and Path(file))


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (None, ""),
        ("a.db", " --storage a.db"),
        ("my runs/a.db", " --storage 'my runs/a.db'"),
        ("postgresql://u@host/db", " --storage postgresql://u@host/db"),
        ("postgresql://u:secret@host/db", ' --storage "$OPTUNA_STORAGE"'),
        ("postgresql://host/db?password=secret", ' --storage "$OPTUNA_STORAGE"'),
    ],
)
def test_the_option_is_typed_again_unless_it_holds_a_password(option, hint):
    """The variable replaces it then; names are quoted."""
    assert storage_hint(option) == hint


def test_passwords_are_not_shown():
    """In the usual place and in the query, whatever characters they contain, and also of a URL with a mistake."""
    assert redact("postgresql://u:secret@host/db?password=secret") == "postgresql://u:***@host/db"
    assert redact("postgresql+psycopg://u:sec@ret/sec@host:5432/db") == "postgresql+psycopg://u:***@host:5432/db"
    assert redact("mysql://host/db") == "mysql://host/db"
    for given in ("ht tp://u:secret@host", "a://u:x?secret@host/db", "a://host/db?p=x@secret", "a://u:secret/x"):
        assert "secret" not in redact(given)
    text = "run --storage postgresql://u:secret@host/db --prior 'b@redis://:secret@h' postgresql:u:secret@host x:y"
    assert redact_all(text) == (
        "run --storage postgresql://u:***@host/db --prior 'b@redis://:***@h' postgresql:... x:y"
    )


def test_the_reason_of_an_error_is_the_first_line_of_the_driver_s_own_message():
    """Without SQL text, and without what the URL keeps secret, as it is or escaped."""
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = OperationalError("SELECT secret", {}, Exception("\n  no route to host \nmore"))
    assert reason(wrapped) == "no route to host"
    assert reason(ValueError()) == "ValueError"
    assert reason(OSError("disk I/O error")).startswith("disk I/O error: the disk may be full or may have failed; free")
    given = "postgresql://u:a%40b@host/db?sslpassword=c+d"
    assert reason(ValueError("a@b, a%40b and c d of u"), given) == "***, *** and *** of u"
    assert reason(ValueError("a@b"), "no url") == "a@b"
    remote = SimpleNamespace(details=lambda: "Exception calling application: it is away", __cause__=None)
    assert reason(remote) == "it is away"
    assert reason(SimpleNamespace(details="text", __cause__="why")) == "why"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("grpc://host:5", ("host", 5)),
        ("grpc://host", ("host", 13000)),
        ("grpc://host/", ("host", 13000)),
        ("grpc://[::1]:5", ("[::1]", 5)),
        ("grpc://", None),
        ("grpc://host:x", None),
        ("grpc://u@host", None),
        ("grpc://host/db", None),
        ("grpc://host?a=b", None),
    ],
)
def test_the_address_of_a_storage_proxy(given, found):
    """A host and a port, Optuna's by default; nothing else."""
    if found is not None:
        assert _address(given) == found
    else:
        with pytest.raises(ConfigError, match=r"is not the URL of a storage proxy; give grpc://HOST:PORT$"):
            _address(given)


@pytest.mark.parametrize(
    ("name", "outage"),
    [*dict.fromkeys(("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"), True).items(), ("NOT_FOUND", False)],
)
def test_a_proxy_that_does_not_answer_is_an_outage(name, outage):
    """By the code of the error; what has no code is none."""
    assert is_remote_outage(SimpleNamespace(code=lambda: SimpleNamespace(name=name))) == outage
    assert not is_remote_outage(SimpleNamespace(code=name))
    assert not is_remote_outage(None)


def test_only_errors_of_storages_are_errors_of_storages():
    """Of SQLite, of Optuna and of SQLAlchemy."""
    errors = (sqlite3.Error(), optuna.exceptions.StorageInternalError(), OperationalError("", {}, Exception()))
    assert all(map(is_storage_error, errors))
    assert not any(map(is_storage_error, (ValueError(), OSError(), optuna.exceptions.OptunaError())))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///a.db",
         {"connect_args": {"timeout": 60, "factory": opening.sqlite.Connection}, "pool_use_lifo": True}),
        ("mysql+pymysql://h/d", {"connect_timeout": 5, "read_timeout": 60}),
        ("mysql+mysqldb://h/d", {"connect_timeout": 5, "read_timeout": 60}),
        ("postgresql+pg8000://h/d", {"timeout": 5}),
        ("postgresql+asyncpg://h/d", {}),
        *[
            (
                f"postgresql+{driver}://h/d",
                {
                    "connect_timeout": 5,
                    "options": "-c statement_timeout=60000 -c idle_in_transaction_session_timeout=20000",
                    "keepalives_idle": 20,
                    "keepalives_interval": 10,
                    "keepalives_count": 3,
                },
            )
            for driver in ("psycopg", "psycopg2")
        ],
    ],
)  # fmt: skip
def test_each_driver_is_told_how_long_to_wait(given, expected):
    """In its own words; connections to servers are tested before they are used."""
    scheme, driver = (given.partition("://")[0] + "+").split("+")[:2]
    parsed = SimpleNamespace(get_backend_name=lambda: scheme, get_driver_name=lambda: driver)
    whole = expected if scheme == "sqlite" else {"pool_pre_ping": True, "connect_args": expected}
    assert opening._engine_kwargs(parsed) == whole


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("postgres://h/d", "write postgresql://"),
        ("foo://h/d", "none is known for 'foo'"),
        ("postgresql+psycopg://h/d", "pip install 'psycopg[binary]'"),
        ("postgresql+psycopg2://h/d", "pip install 'psycopg2-binary'"),
        ("mysql+mysqldb://h/d", "pip install 'mysqlclient'"),
        ("mysql+pymysql://h/d", "pip install 'pymysql'"),
    ],
)
def test_a_missing_driver_is_named_as_it_is_installed(given, line):
    """The package of a driver may have another name."""
    assert opening._driver(given) == line
