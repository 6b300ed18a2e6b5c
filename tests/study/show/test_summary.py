"""The summary at the end of a session: failures and the next commands."""

import io
import re
import signal

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from printed import printed
from rich.console import Console

from dropopt.study.command.manifests import Job
from dropopt.study.show.next_lines import Resume, best_file
from dropopt.study.show.progress import Progress
from dropopt.study.show.summary import Outcome, show_summary
from dropopt.study.store.experiment import name_metric


def summary(study, n_trials=2, extendable=True, **changes):
    """The summary of ``study`` as text."""
    values = {"timeout": None, "stopped_by": None, "url": "runs/my db", "storage_hint": " --storage 'runs/my db'"}
    outcome = Outcome(**values | changes, resume=Resume("dropopt run a", n_trials, extendable))
    return printed(lambda console: show_summary(console, study, outcome), width=100)


@pytest.fixture(name="study")
def _study():
    """One complete trial and three that failed for two reasons."""
    study = optuna.create_study(study_name="a study")
    name_metric(study, "loss")
    study.add_trial(create_trial(value=0.5, user_attrs={"val_accuracy": 0.9, "config": {}}))
    for reason in ("Broken", "out of memory", "Broken", "interrupted"):
        attributes = {"reason": reason, "message": "details"}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    return study


def test_failures_are_grouped_by_reason(study):
    """The most frequent reason comes first. Interrupted trials are not failures."""
    lines = [line for line in summary(study).splitlines() if " failed: " in line]
    assert lines == ["2 failed: Broken (trial 3: details)", "1 failed: out of memory (trial 2: details)"]


def test_a_trial_of_another_program_has_no_best_epoch(study):
    """Its cells have a dash."""
    study.add_trial(create_trial(value=0.001))
    written = summary(study)
    assert "None" not in written
    assert re.search(rf"│ {len(study.trials) - 1} +│ 0\.0010 +│ - +│ - +│ - +│", written)


def test_the_next_commands_can_be_typed(study):
    """Names are quoted, --storage is repeated if it was given, and a finished study needs a larger target."""
    text = summary(study)
    assert f"dropopt export --study 'a study' --storage 'runs/my db' -o {best_file('a study')}" in text
    assert "dropopt run a --n-trials 6\n" in text
    assert "--storage" not in summary(study, storage_hint="")
    assert "dropopt run a --n-trials 5\n" in summary(study, n_trials=5)


def test_the_best_trial_is_compared_with_the_anchors(study):
    """A table of the anchors, and the verdict in words; neither if there are no anchors."""
    assert "compared with" not in summary(study)
    for name, value in (("no dropout", 0.8), ("channel 0.2", 0.6)):
        study.add_trial(create_trial(value=value, user_attrs={"anchor": name, "val_accuracy": 0.85}))
    text = summary(study)
    rows = [line.split() for line in text.splitlines() if "│ no dropout" in line or "│ channel 0.2" in line]
    assert "(no dropout)" in text, "the table of the best trials names anchors as well"
    assert [word for word in rows[0] if word in ("0.6000", "0.8500")] == ["0.6000", "0.8500"]
    assert "-16.7%" in rows[0]
    assert "-37.5%" in rows[1]
    assert "the best trial's loss is 16.7% below that of the best anchor, channel 0.2" in " ".join(text.split())


@pytest.mark.parametrize(("classes", "value", "announced"), [(10, 81490.0, False), (10, 2.0, True), (None, 99.0, True)])
def test_a_diverged_trial_never_leads(classes, value, announced):
    """A trial whose loss is far above that of a guess, ln(classes), is not announced as the best."""
    study = optuna.create_study()
    name_metric(study, "loss")
    if classes:
        study.set_user_attr("classes", classes)
    file = io.StringIO()
    progress = Progress(Console(file=file, width=100), 5)
    progress.opened(study)
    study.add_trial(create_trial(value=value, user_attrs={"val_accuracy": 0.1}))
    progress.ended(0, 0)
    assert ("is the best so far" in file.getvalue()) == announced
    study.add_trial(create_trial(value=0.5, user_attrs={"val_accuracy": 0.9}))
    progress.ended(0, 1)
    assert "trial 1 is the best so far: smoothed loss 0.5000" in file.getvalue()


def test_a_trial_that_may_hang_is_shown():
    """With what it did before, and with what to do."""
    text = printed(lambda console: Progress(console, 5).stalled(0, 3, 312.0, 4.25))
    silence = "trial 3 has reported nothing for 5 min, and its longest epoch took 4.25 s"
    assert text == f"note: {silence}; if it hangs, stop this command and run it again\n"


def test_a_signal_is_reported(study):
    """The summary names the signal that stopped the session."""
    assert summary(study, stopped_by=signal.SIGTERM).startswith("stopped by SIGTERM; ")


def test_only_commands_that_work_are_suggested(study):
    """``dropopt efficacy`` needs a trial with parameters, not a blend; a worker has no option --n-trials."""
    assert "dropopt efficacy" not in summary(study)
    rate = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(create_trial(value=0.4, params={"p": 0.5}, distributions={"p": rate}))
    assert "dropopt efficacy --study 'a study'" in summary(study)
    assert "go on   dropopt run a\n" in summary(study, extendable=False, n_trials=9)
    assert "go on" not in summary(study, extendable=False)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "-rf", "x\0y", "é" * 300])
def test_a_study_s_name_cannot_lead_out_of_the_folder(name):
    """The suggested file lies in the current folder, whatever the name of the study."""
    file = best_file(name)
    assert re.fullmatch(r"best-[\w.-]{1,80}\.yaml", file)
    assert len(file.encode()) <= 90


def test_each_study_has_a_file_and_a_job_of_its_own():
    """Names that differ only in symbols, in letters of other alphabets, in case or after 80 letters; others stay."""
    names = ["a b", "a/b", "a+b", "a-b", "日本", "中国", "写真", "+", "-", "x" * 90, "x" * 91, "größe", "A b"]
    assert len({best_file(name) for name in names}) == len(names)
    assert len({Job(name, None).title for name in names}) == len(names)
    assert [best_file(name) for name in ("digits", "größe", "日本", "v1.2_a-b")] == [
        *("best-digits.yaml", "best-größe.yaml", "best-日本.yaml", "best-v1.2_a-b.yaml")
    ]
