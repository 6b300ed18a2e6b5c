"""Studies whose data were moved or renamed: the hashes of the data decide whether they are the same."""

import shutil
from pathlib import Path

import fake_study
import pytest
from fake_confirm import compare, confirm
from fake_study import trials
from optuna.trial import TrialState, create_trial
from outside import Outside

from dropopt.config import ConfigError
from dropopt.study.command.worker import worker
from dropopt.study.session import session


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A journal file with a finished study."""
    path = tmp_path_factory.mktemp("finished") / "study.log"
    assert fake_study.run(str(path), n_jobs=1, n_trials=2, data={"name": "numpy:a.npz"}) == 0
    return path


@pytest.fixture(autouse=True)
def _moved(finished, here):
    """The study, whose data have been moved from ``a.npz`` to ``b.npz``."""
    shutil.copy(finished, "study.log")
    Path("b.npz").touch()


def resume(name, n_trials=3):
    return fake_study.run("study.log", n_jobs=1, n_trials=n_trials, data={"name": name})


def names(study):
    return [trial.user_attrs["config"]["data"]["name"] for trial in trials("study.log", study)]


def test_a_study_goes_on_where_its_data_are_now():
    """New trials say where they found the data. A folder cannot be the same data as a file."""
    assert resume("numpy:b.npz") == 0
    assert names("fake") == ["numpy:a.npz", "numpy:a.npz", "numpy:b.npz"]
    with pytest.raises(ConfigError, match=r"was created with data\.name = numpy:a\.npz, not folder:b"):
        resume("folder:b")


def test_a_study_refuses_other_data_at_another_place(monkeypatch):
    """The message says what was given, what the study began with and which split differs."""
    monkeypatch.setenv("FAKE_DATA", "others")
    message = r"numpy:b\.npz does not hold the data of study 'fake', which began with numpy:a\.npz \(other: train\)"
    with pytest.raises(ConfigError, match=message):
        resume("numpy:b.npz")
    with pytest.raises(ConfigError, match=message):
        confirm("study.log", data="numpy:b.npz")
    assert len(trials("study.log")) == 2


def test_a_confirmation_is_told_where_the_data_are(capsys):
    """Without it, missing data are reported before the plan is printed."""
    capsys.readouterr()
    with pytest.raises(ConfigError, match=r"a\.npz"):
        confirm("study.log", top=1, seeds=2)
    assert capsys.readouterr().out == ""
    code, found = confirm("study.log", top=1, seeds=2, data="numpy:b.npz")
    assert (code, found.tested.test.seeds) == (0, 2)
    assert {*names("fake-confirmed"), *names("fake-tested")} == {"numpy:b.npz"}
    with pytest.raises(ConfigError, match=r"--data digits: the study was run with numpy:a\.npz; --data says where"):
        confirm("study.log", data="digits")


def test_workers_and_resumed_trials_are_told_where_the_data_are(monkeypatch):
    """With the same option as the confirmation; the line that continues has it."""
    with Outside("study.log") as study:
        study.set_user_attr("plan", study.user_attrs["plan"] | {"n_trials": 3})
        first = study.trials[0]
        study.add_trial(create_trial(state=TrialState.PRUNED, params=first.params, distributions=first.distributions))
    assert fake_study.resume("study.log", 2, data="numpy:b.npz") == 0
    lines = []
    monkeypatch.setattr(session, "run", lambda request: lines.append((request.resume_command, request.settings)) or 0)
    worker(study="fake", storage="study.log", data="numpy:b.npz")
    [(line, settings)] = lines
    assert line == "dropopt worker --data numpy:b.npz --study fake --storage study.log"
    assert settings.base.data.name == trials("study.log")[3].user_attrs["config"]["data"]["name"] == "numpy:b.npz"
    with pytest.raises(ConfigError, match=r"--data digits: the study was run with numpy:a\.npz"):
        worker(study="fake", storage="study.log", data="digits")


def test_a_comparison_goes_on_where_the_data_are_now():
    """Also if one arm was searched before they were moved, and the other after it."""
    settings = {"n_trials": 1, "data": {"name": "numpy:b.npz"}}
    early = {**settings, "data": {"name": "numpy:a.npz"}, "name": "cmp-compact", "space": "compact"}
    assert fake_study.run("study.log", n_jobs=1, **early) == 0
    code, found = compare("study.log", ["compact", "blend"], settings, seeds=2)
    assert code == 0
    assert [arm.name for arm in found.arms] == ["compact", "blend"]
