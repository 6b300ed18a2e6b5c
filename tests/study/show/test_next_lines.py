"""The commands that are printed to be typed next: each works as printed."""

import shlex

import optuna
import pytest
import typer
from optuna.trial import create_trial
from shown_study import shown_study

from dropopt.cli import app
from dropopt.study.show.next_lines import Resume, next_lines
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.summary import Outcome
from dropopt.study.store import keys
from dropopt.study.store.url import redact, storage_hint


def parsed(line):
    """Parse a printed line as the shell and the command line do; returns the command's name and its values."""
    program, *arguments = shlex.split(line)
    assert program == "dropopt"
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(typer.Context(group), arguments)
    return name, command.make_context(name, list(rest)).params


@pytest.mark.parametrize(
    ("name", "blend"),
    [("photos", False), *((name, True) for name in ("photos", "a study", "-rf", "it's $HOME", "x;y"))],
)
def test_each_line_parses_as_printed(name, blend):
    """The study and the storage arrive as they were given, with and without a blend."""
    shot = Snapshot.of(shown_study(12, name=name, blend=blend))
    lines = dict(next_lines(shot, storage_hint("my runs/a.db"), Resume("dropopt run digits --storage a.db", 12)))
    assert list(lines) == ["look", "learn", "go on", "report", "confirm", "export", "train"]
    found = {what: parsed(line) for what, line in lines.items()}
    for what in lines.keys() & {"learn", "report", "confirm", "export"}:
        assert found[what][1]["study"] == name
        assert found[what][1]["storage"] == "my runs/a.db"
    assert found["go on"][1]["n_trials"] == 24
    assert str(found["train"][1]["file"]) == str(found["export"][1]["output"])


def test_a_study_that_trains_too_briefly_has_a_line_for_twice_the_epochs():
    """In a study of another name with as many trials and the same storage; everything else is as it began."""
    line = 'dropopt run digits --study-name photos --epochs 6 --no-anchors --n-trials 3 --storage "$OPTUNA_STORAGE"'
    study, place = shown_study(12, **{keys.MADE_WITH: {"command": line}}), storage_hint("mysql://me:secret@host/db")
    assert "longer" not in dict(next_lines(Snapshot.of(study), ""))
    study.add_trials([create_trial(value=0.3, intermediate_values={5: 0.4, 6: 0.3})] * 5)
    longer = dict(next_lines(Snapshot.of(study), place))["longer"]
    assert longer.endswith(' --storage "$OPTUNA_STORAGE"')  # in single quotes the shell would not replace it
    name, values = parsed(longer)
    given = [values[key] for key in ("study", "name", "epochs", "anchors", "n_trials")]
    assert (name, given) == ("run", ["digits", "photos-12-epochs", 12, False, 12])
    study.set_user_attr(
        keys.MADE_WITH, {"command": "dropopt run digits --set 'train.epochs = 6'"}
    )  # wins over --epochs
    assert "longer" not in dict(next_lines(Snapshot.of(study), place))


def test_lines_of_odd_studies():
    """A study with several objectives has no best trial; one of another program has nothing to export."""
    several = optuna.create_study(directions=["minimize", "minimize"])
    several.add_trial(create_trial(values=[1.0, 2.0]))
    assert [what for what, _ in next_lines(Snapshot.of(several), "")] == ["look"]
    foreign = optuna.create_study()
    foreign.add_trial(create_trial(value=1.0))
    assert [what for what, _ in next_lines(Snapshot.of(foreign), "")] == ["look", "report"]


def test_a_better_trial_of_another_program_hides_no_line():
    """The best trial that holds a configuration is exported, and the study can be confirmed."""
    study = shown_study(12)
    ours = study.best_trial.number
    study.add_trial(create_trial(value=0.0))
    lines = dict(next_lines(Snapshot.of(study), ""))
    assert "confirm" in lines
    assert parsed(lines["export"])[1]["trial"] == ours
    assert str(parsed(lines["train"])[1]["file"]) == str(parsed(lines["export"])[1]["output"])


def test_a_password_is_read_from_the_environment():
    """A line with a redacted URL could not be typed; it names the variable, and the summary says what it must hold."""
    url = "postgresql://me:secret@host/db"
    shot = Snapshot.of(shown_study(3))
    for _, line in next_lines(shot, storage_hint(url)):
        assert "secret" not in line
        assert "***" not in line
    assert '--storage "$OPTUNA_STORAGE"' in dict(next_lines(shot, storage_hint(url)))["export"]
    outcome = Outcome(None, None, redact(url), storage_hint(url), Resume("dropopt run a", 1))
    assert outcome.url_note == " (set OPTUNA_STORAGE to the URL with its password)"
    assert not Outcome(None, None, "sqlite:///a.db", "", Resume("dropopt run a", 1)).url_note
