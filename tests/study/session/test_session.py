"""The start of a session: functions of a script, another study of the same name, data that must not change."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fake_study
import pytest
from fake_study import trials
from optuna.trial import TrialState, create_trial
from rich.console import Console

from dropopt.config import ConfigError
from dropopt.study.run.messages import Ready
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.session import session
from dropopt.study.session.request import Request
from dropopt.study.store.experiment import name_of_files
from dropopt.study.store.keys import COMMAND, PLAN
from dropopt.study.store.opening import close, open_storage

SCRIPT = """
import numpy as np
from dropopt.study import Study

def data():
    return np.random.default_rng(0).random((60, 8, 8)), np.arange(60) % 3

def network(classes):
    {broken}
    from torch import nn  # takes seconds, which only the processes that train have to wait for
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

study = Study(
    name="mine", data={{"name": data, "subset": 40}}, model=network, n_trials=1, train={{"epochs": 1, "batch_size": 8}},
)

{main}study.main()
"""
DROPOPT = ["-c", "from dropopt.cli import main; main()"]
MAIN = 'if __name__ == "__main__":\n    '

pytestmark = pytest.mark.usefixtures("here")


def script(name="mine.py", broken="", main=MAIN):
    path = Path("elsewhere", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.format(broken=broken, main=main))
    return path


def run(*line):
    """Run Python with the arguments ``line``. Returns the exit code and the output."""
    done = subprocess.run(
        [sys.executable, *map(str, line)], capture_output=True, text=True, timeout=120, check=False, env=os.environ
    )
    return done.returncode, done.stdout + done.stderr


def trained():
    """The names of the data and of the network of the only trial."""
    (trial,) = trials("sqlite:///runs/dropopt.db", "mine")
    return trial.user_attrs["config"]["data"]["name"], trial.user_attrs["config"]["model"]["name"]


def test_functions_of_a_script_are_its_data_and_network():
    """A script in another folder, whose name need not be an identifier, trains the functions that it defines."""
    path = script("2024 my-tune.v2.py")
    code, output = run(*DROPOPT, "run", path, "--n-jobs", "1")
    assert code == 0, output
    assert trained() == (f"{path.stem}:data", f"{path.stem}:network")


def test_a_module_of_a_package_is_a_script():
    """``python -m package.script`` runs the study; its functions may use the rest of the package."""
    path = script("tune.py")
    path.with_name("__init__.py").touch()
    path.with_name("sizes.py").write_text("COUNT = 60\n")
    text = path.read_text().replace("def data", "from .sizes import COUNT\ndef data")
    path.write_text(text.replace("60, 8", "COUNT, 8"))
    code, output = run("-m", "elsewhere.tune", "--n-jobs", "1")
    assert code == 0, output
    assert trained() == ("elsewhere.tune:data", "elsewhere.tune:network")
    assert "go on   python -m elsewhere.tune --n-jobs 1 --n-trials 2" in output


def test_a_name_that_means_something_else_is_an_error():
    """``folder:data`` is a folder called data, so a script must not be called folder.py."""
    code, output = run(*DROPOPT, "run", script("folder.py"))
    assert code == 2
    assert "folder.py: folder:NAME in a setting is not a function of a script" in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"main": ""}, 'mine.py: put study.main() below: if __name__ == "__main__":'),
        ({"broken": "raise KeyError('x')"}, "model mine:network: building it failed: KeyError: 'x' ("),
    ],
)
def test_a_study_that_cannot_work_is_reported_at_once(settings, message):
    """An unguarded main, and a network that cannot be built."""
    code, output = run(script(**settings), "--n-jobs", "1")
    assert message in output
    assert "Traceback" not in output
    assert code == 2


def test_data_that_differ_between_loads_end_the_study(monkeypatch):
    """The second process loads others than the first one, which trains meanwhile."""
    monkeypatch.setenv("FAKE_DATA", "random")
    monkeypatch.setenv("FAKE_SECONDS", "1")
    with pytest.raises(ConfigError, match=r"^the data differ between loads; seed any randomness in the function"):
        fake_study.run("study.log", n_jobs=2, n_trials=2)
    assert [trial.state.name for trial in trials("study.log")] == ["FAIL"]


@pytest.fixture(name="begin")
def _begin():
    """A function that begins a session of the fake study."""
    storages = []

    def begin(storage="study.log", command="dropopt run fake", **options):
        storages.append(open_storage(storage))
        request = Request(fake_study.make(**options), Path(__file__), storage, 1, command)
        begun = session.Session(request, storages[-1], None, Console(quiet=True))
        begun.resume()
        begun.prepare()
        return begun

    yield begin
    for storage in storages:
        close(storage)


READY = Ready(10, {"train": "a"}, [])


def test_a_study_that_another_session_has_just_created_is_kept(begin):
    """Of sessions that start at the same time, the first defines the study and the others are compared with it."""
    first, second, third, other = begin(), begin(), begin(), begin(train={"epochs": 9})
    first.open_study(READY)
    assert second.open_study(READY).study.study_name == "fake"
    with pytest.raises(ConfigError, match="the data of study 'fake' have changed"):
        third.open_study(Ready(10, {"train": "b"}, []))
    with pytest.raises(ConfigError, match=r"study 'fake' exists and was created with train.epochs = 8, not 9"):
        other.open_study(READY)


def test_a_resumed_study_records_its_present_plan_and_keeps_the_names_of_its_files(begin):
    """A study of the same name in another storage has other names of files, so neither removes the other's."""
    names = []
    for storage, n_trials in (("study.log", 6), ("study.log", 9), ("other.log", 6)):
        command = f"dropopt run {n_trials}"
        study = begin(storage, command, n_trials=n_trials).open_study(READY).study
        assert (study.user_attrs[PLAN]["n_trials"], study.user_attrs[COMMAND]) == (n_trials, command)
        names.append(name_of_files(study))
        study.add_trial(create_trial(value=1.0))
    assert names[0] == names[1] != names[2]


def test_an_anchor_that_was_run_again_delays_no_pruning(begin):
    """Trials are pruned once four others than the anchors are complete."""
    startup = []
    for _ in range(3):
        ledger = begin(anchors=True, n_trials=20, pruner="median").open_study(READY)
        startup.append(ledger.study.pruner._n_startup_trials)
        trial, _ = ledger.ask()
        ledger.interrupt(trial, "the study stopped")
    assert [one.user_attrs.get("anchor") for one in trials("study.log")].count("no dropout") > 1
    assert startup == [10, 10, 10]


def test_the_network_decides_which_sites_are_searched(capsys):
    """Choices that the network does not offer are reported and left out; a resumed study keeps its choices."""
    Path("space.yaml").write_text("engine:\n  r0: 0.2\n  sites: {choices: [auto, block, linear, 'last:1']}\n")
    options = {"name": "where", "space": "space.yaml", "sampler": "random"}
    fake_study.run("study.log", 1, n_trials=6, **options)
    note = "note: choices of sites that are not searched: block matches no module before the output layer, "

    assert note in capsys.readouterr().out
    fake_study.run("study.log", 1, n_trials=9, **options)
    assert note not in capsys.readouterr().out
    found = trials("study.log", "where")
    assert len(found) == 9
    assert {trial.distributions["sites"].choices for trial in found} == {("auto", "linear")}
    assert {trial.params["sites"] for trial in found} == {"auto", "linear"}


def test_a_timeout_before_the_first_trial_is_reported(capsys):
    """The summary says why there is no trial."""
    assert fake_study.run("study.log", timeout=1e-6) == 0
    assert "no trial could start within 1e-06 s; give a longer --timeout" in capsys.readouterr().out


def test_a_signal_during_the_summary_is_heeded(monkeypatch):
    """It has come too late for the study, but it also ends what runs the study, such as a comparison."""
    summarise, caught = session.Session.summarise, []

    class Catcher(SignalCatcher):
        """Lets the test wait for the signal."""

        def __enter__(self):
            """Keep it."""
            caught.append(self)
            return super().__enter__()

    def interrupted(self, stopped_by):
        code = summarise(self, stopped_by)
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught[0].wait(30)  # the signal is received by another thread
        return code

    monkeypatch.setattr(session, "SignalCatcher", Catcher)
    monkeypatch.setattr(session.Session, "summarise", interrupted)
    assert fake_study.run("s.log", n_jobs=1, n_trials=1) == 128 + signal.SIGTERM
    assert trials("s.log")[0].state.name == "COMPLETE"


def test_a_signal_before_the_study_begins_is_answered_with_the_next_command(capsys):
    """There is no summary yet, since the data are still being loaded."""
    request = Request(fake_study.make(), Path(__file__), "study.log", 1, "dropopt run fake")
    begun = session.Session(request, None, None, Console(soft_wrap=True))
    assert begun.summarise(signal.SIGTERM) == 143
    assert capsys.readouterr().out.splitlines() == [
        "stopped by SIGTERM before the study began; next:",
        "  go on   dropopt run fake --n-trials 6",
    ]


def test_a_quiet_session_says_that_every_trial_has_failed(begin, capsys):
    """On standard error, with the exit code 1; otherwise nothing is printed."""
    begun = begin()
    begun.open_study(READY).study.add_trial(create_trial(state=TrialState.FAIL))
    assert begun.summarise(None) == 1
    printed = capsys.readouterr()
    assert printed.err == "dropopt: every trial of study 'fake' has failed; dropopt report shows why\n"
    assert not printed.out
