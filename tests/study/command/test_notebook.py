"""A study that is run from Python returns its results; its task may be any."""

import importlib
import re
from pathlib import Path

import other_tasks
import pytest
from outside import Outside

import dropopt
from dropopt.config import ConfigError, RunConfig
from dropopt.study import Space, Study
from dropopt.study.define.script import load
from dropopt.study.run.errors import StudyError
from dropopt.study.session import confirming
from dropopt.study.show.console import busy
from dropopt.study.store.experiment import create
from dropopt.study.store.keys import COMMAND
from dropopt.study.store.opening import close, open_storage


def test_a_cell_that_runs_a_study_has_its_results(here, cache, capsys):
    """Trials, the best configuration, its functions by name; the same cell continues it. A storage may be a path.

    A study that Python code runs has no script that ``dropopt run`` could find, neither now nor in its report.
    """
    names = {"Study": Study, "tasks": other_tasks, "Path": Path, "__name__": "__main__"}
    cell = """
task = {"loss": tasks.halved, "metric": tasks.worst, "direction": "minimize", "objective": "metric"}
train = {"epochs": 1, "batch_size": 16, "device": "cpu"}
study = Study(name="cell", data=tasks.regression, model=tasks.image_network, task=task, train=train, space="dropout",
              n_trials=2)
result = study.run(storage=storage, n_jobs=1)
"""
    exec(cell, names | {"storage": "study.db"})
    names["storage"] = Path("study.db")
    exec(cell, names)
    result = names["result"]
    assert len(result.trials) == 2
    assert repr(result).startswith("StudyResult('cell', 2 trials, best worst ")
    assert result.best_value == min(trial.value for trial in result.trials)
    assert result.best.run.task.metric == "other_tasks:worst"
    result.save("best.yaml")
    assert dropopt.load("best.yaml") == result.best
    assert "task:" in Path("best.yaml").read_text()
    written = capsys.readouterr().out
    assert "dropopt run" not in written
    assert "it already has 2 trials; to go on, run it with n_trials = 4" in written
    with Outside("study.db", "cell") as stored:
        assert COMMAND not in stored.user_attrs
    found = names["study"].confirm(top=1, seeds=2, anchors=False, storage=Path("study.db"), n_jobs=1)
    assert repr(found).startswith("Confirmation('cell', 1 configuration, winner trial ")
    assert found.tested.trial == found.winner.trial
    assert found.verdict in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("call", ["run()", "confirm()", "main()", "main([])", "compare(['dropout', 'blend'])"])
@pytest.mark.parametrize("text", ["study.{call}", "def go():\n    study.{call}\n\ngo()"])
def test_importing_a_script_does_not_run_its_study(tmp_path, monkeypatch, text, call):
    """Children import the script for its functions; each would run the study again, in children of its own."""
    for function in ("run_here", "confirm_here", "run_command"):
        monkeypatch.setattr(f"dropopt.study.command.script.{function}", lambda *_, **__: pytest.fail("it has run"))
    path = tmp_path / "unguarded.py"
    body = text.format(call=call)
    path.write_text(f"from dropopt.study import Study\nstudy = Study(name='a')\n{body}\n")
    message = re.escape(f'put study.{call.partition("(")[0]}() below: if __name__ == "__main__":')
    with pytest.raises(ConfigError, match=message):
        load(str(path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        importlib.import_module("unguarded")
    Path(tmp_path, "guarded.py").write_text(f"{path.read_text().replace(body, '')}\ndef go():\n    study.run()\n")
    with pytest.raises(pytest.fail.Exception, match="it has run"):
        importlib.import_module("guarded").go()


def test_a_function_of_a_notebook_is_told_how_to_get_into_a_file(monkeypatch):
    """Child processes import functions, and a cell is not a file."""
    names = {"__name__": "__main__"}
    exec("def data():\n    return None", names)
    monkeypatch.delattr("__main__.__file__", raising=False)
    said = r"in a notebook, begin its cell with %%writefile own.py, .*from own import d"
    with pytest.raises(ConfigError, match=said):
        Study(name="cell", data=names["data"])


@pytest.mark.parametrize(
    ("call", "instead"), [("main()", r"study\.run\(\)"), ("compare(['dropout'])", r"study\.compare\(\[...\], \[\]\)")]
)
def test_the_arguments_of_a_kernel_are_not_those_of_a_study(monkeypatch, call, instead):
    """A kernel has options such as ``-f``, which were called unknown options of dropopt."""
    monkeypatch.delattr("__main__.__file__", raising=False)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    names = {"study": Study(name="cell"), "__name__": "__main__"}
    with pytest.raises(ConfigError, match=f"a notebook has no command line: .*{instead}"):
        eval(f"study.{call}", names)
    with pytest.raises(SystemExit, match="0"):
        Study(name="cell").main(["--help"])
    monkeypatch.setattr("__main__.__file__", "script.py", raising=False)  # a script that %run runs has its own
    monkeypatch.setattr("sys.argv", ["script.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        eval(f"study.{call}", names)


def test_a_notebook_shows_no_spinner(monkeypatch, capsys):
    """A kernel sets FORCE_COLOR, and its standard error is no terminal: each turn was a line of its own."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with busy("thinking") as status:
        status.update("thinking more")
    assert capsys.readouterr() == ("", "")


def test_errors_of_a_call_name_its_arguments(here):
    """Not the options of the command: a notebook has none."""
    storage = open_storage("sqlite:///study.db", create=True)
    space = Space.load("dropout")
    study, _ = create(storage, "mine", space, space.base(RunConfig()), {}, known=False)
    study.ask()
    close(storage)
    own = Study(name="mine", space="compact", n_trials=2)
    with pytest.raises(ConfigError, match=r"; give another name=, or the same settings$"):
        own.run(storage="study.db", n_jobs=1)
    with pytest.raises(ConfigError, match=r"is not a file; give another storage=$"):
        own.run(storage="sqlite:///.", n_jobs=1)
    with pytest.raises(ConfigError, match=r"^seeds must be 2 or more, got 1$"):
        own.confirm(seeds=1)
    with pytest.raises(ConfigError, match=r"^no study 'other' in this storage; known: mine$"):
        Study(name="other").confirm(storage="study.db")


def test_a_confirmation_uses_the_data_and_the_checkpoints_of_the_study(monkeypatch):
    """Data may have been moved since the search. A study that only gives a name uses those of the search."""
    asked = []
    monkeypatch.setattr(confirming, "confirm", lambda request, console: asked.append(request) or (1, None))
    for own in (Study(name="mine"), Study(name="mine", data={"name": "folder:here"}, checkpoints="fast")):
        with pytest.raises(StudyError, match="no configuration of study 'mine' could be trained"):
            own.confirm()
    assert [(one.data, one.checkpoints) for one in asked] == [(None, None), ("folder:here", "fast")]
