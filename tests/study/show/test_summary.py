"""The summary at the end of a session: failures and the next commands."""

import io
import re
import signal

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from dropopt.study.show.summary import Outcome, best_file, show_summary


def printed(study, **changes):
    """The summary of ``study`` as text."""
    values = {"n_trials": 2, "timeout": None, "stopped_by": None, "url": "runs/my db"}
    values["storage_hint"] = " --storage 'runs/my db'"
    file = io.StringIO()
    show_summary(
        Console(file=file, width=100), study, Outcome(**values | {"resume_command": "dropopt run a"} | changes)
    )
    return file.getvalue()


@pytest.fixture(name="study")
def _study():
    """One complete trial and three that failed for two reasons."""
    study = optuna.create_study(study_name="a study")
    study.add_trial(create_trial(value=0.5, user_attrs={"val_accuracy": 0.9}))
    for reason in ("Broken", "out of memory", "Broken", "interrupted"):
        attributes = {"reason": reason, "message": "details"}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    return study


def test_failures_are_grouped_by_reason(study):
    """The most frequent reason comes first. Interrupted trials are not failures."""
    lines = [line for line in printed(study).splitlines() if " failed: " in line]
    assert lines == ["2 failed: Broken (trial 3: details)", "1 failed: out of memory (trial 2: details)"]


def test_the_next_commands_can_be_typed(study):
    """Names are quoted, --storage is repeated if it was given, and a finished study needs a larger target."""
    text = printed(study)
    assert "dropopt export --study 'a study' --storage 'runs/my db' -o best-a-study.yaml" in text
    assert "dropopt run a --n-trials 6\n" in text
    assert "--storage" not in printed(study, storage_hint="")
    assert "dropopt run a --n-trials 5\n" in printed(study, n_trials=5)


def test_a_signal_is_reported(study):
    """The summary names the signal that stopped the session."""
    assert printed(study, stopped_by=signal.SIGTERM).startswith("stopped by SIGTERM; ")


def test_only_commands_that_work_are_suggested(study):
    """``dropopt efficacy`` needs a study with a blend, and a worker has no option --n-trials."""
    assert "dropopt efficacy" not in printed(study)
    share = optuna.distributions.FloatDistribution(0, 1)
    weights = {"w_adaptive": 0.5, "w_pfid": 0.5}
    study.add_trial(create_trial(value=0.4, params=weights, distributions=dict.fromkeys(weights, share)))
    assert "dropopt efficacy --study 'a study'" in printed(study)
    assert "go on   dropopt run a\n" in printed(study, extendable=False, n_trials=9)
    assert "go on" not in printed(study, extendable=False)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "-rf", "x\0y", "é" * 300])
def test_a_study_s_name_cannot_lead_out_of_the_folder(name):
    """The suggested file lies in the current folder, whatever the name of the study."""
    file = best_file(name)
    assert re.fullmatch(r"best-[A-Za-z0-9_-]{1,80}\.yaml", file)
