"""``--quiet`` and ``--json``: which commands have them, and that each of these commands obeys."""

import json

import optuna
import pytest
import typer
from shown_study import shown_study

from dropopt import cli
from dropopt.config import ConfigError
from dropopt.study.define.script import load
from dropopt.study.session import comparing, confirming, continuing, joining, session
from dropopt.study.session.request import Request
from dropopt.study.show.snapshot import Snapshot

APP = typer.main.get_command(cli.app)
#: Commands that print a list or a result as JSON.
LISTING = {"status", "efficacy", "confirm", "compare", "export", "train", "predict"}
#: Commands that print a list or an address only, so that --quiet would leave nothing.
LOUD = {"status", "dashboard", "storage-proxy"}
#: A command line of each quiet command, without --quiet, that prints something. train and predict: see test_cli.py.
LINES = {
    "run": ["digits"],
    "worker": [],
    "resume-trial": ["1"],
    "efficacy": ["-o", "prior.json"],
    "report": [],
    "confirm": [],
    "compare": ["dropout", "blend"],
    "export": [],
}


def journal(path):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The URL of a storage with a study."""
    path = tmp_path_factory.mktemp("stored") / "study.log"
    shown_study(4, journal(path))
    return str(path)


@pytest.fixture
def stored(url, here, tmp_path, monkeypatch):
    """The default storage has a study, and sessions only print a line."""
    monkeypatch.setenv("OPTUNA_STORAGE", url)

    def of_console(_, console):
        console.print("progress")
        return 0, None

    def of_request(request, *_):
        session.make_console(quiet=request.quiet).print("progress")
        return 0

    monkeypatch.setattr(confirming, "confirm", of_console)
    monkeypatch.setattr(comparing, "compare", of_console)
    monkeypatch.setattr(session, "run", of_request)
    monkeypatch.setattr(continuing, "run", of_request)
    request = Request(load("digits")[0], tmp_path, None, 1, "again")
    monkeypatch.setattr(joining, "stored_request", lambda *_, **__: request)
    monkeypatch.setattr(Snapshot, "effects", None)  # of a report: their figures take seconds


@pytest.mark.parametrize("name", APP.commands)
def test_every_command_has_the_options(name):
    """Each command that trains or writes has --quiet, and each that lists has --json, in the same words."""
    texts = {option: p.help for p in APP.commands[name].params if p.param_type_name == "option" for option in p.opts}
    assert ("--json" in texts) == (name in LISTING)
    assert ("--quiet" in texts and "-q" in texts) == (name not in LOUD)
    assert texts.get("--json") in (None, "Print JSON, for other programs.")
    if name != "predict":
        assert texts.get("--quiet") in (None, "Print nothing but errors.")


@pytest.mark.parametrize("name", LINES)
def test_quiet_prints_nothing(stored, name, capsys):
    """Neither on standard output nor on standard error; without it, the same command prints."""
    for options in ((), ("--quiet",)):
        APP([name, *LINES[name], *options], standalone_mode=False)
        printed = capsys.readouterr()
        assert bool(printed.out + printed.err) == (not options), printed


@pytest.mark.parametrize("name", ["confirm", "compare", "efficacy", "export"])
def test_quiet_json_is_json_alone(stored, name, capsys):
    """With both options, standard output is JSON (here without a result: nothing), and standard error is empty."""
    APP([name, *LINES[name], "--quiet", "--json"], standalone_mode=False)
    printed = capsys.readouterr()
    assert not printed.err
    assert name in ("confirm", "compare") or json.loads(printed.out)["study"] == "photos"


@pytest.mark.parametrize(("name", "room"), [("confirm", confirming), ("compare", comparing)])
def test_quiet_does_not_fail_in_silence(stored, name, room, monkeypatch, capsys):
    """An exit code other than 0 comes with a line on standard error."""
    monkeypatch.setattr(room, name, lambda *_: (1, None))
    assert APP([name, *LINES[name], "--quiet"], standalone_mode=False) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("dropopt: ")
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("line", [["efficacy"], ["export", "--list"], ["export"]])
@pytest.mark.parametrize("failed", [0, 3])
def test_studies_without_a_result_are_named(line, failed, monkeypatch, tmp_path):
    """An empty study, and one whose trials have all failed, have nothing to show; an empty table would not say so."""
    study = optuna.create_study(study_name="ein Versuch é", storage=journal(tmp_path / "empty.log"))
    study.add_trials([optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL) for _ in range(failed)])
    monkeypatch.setenv("OPTUNA_STORAGE", str(tmp_path / "empty.log"))
    with pytest.raises(ConfigError, match=r"'ein Versuch é' has no completed trial yet \((none yet|3 failed)\)"):
        APP(line, standalone_mode=False)
