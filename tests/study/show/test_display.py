"""Progress on a terminal: what is shown while trials run, and how long the rest will take."""

import io
import sys
from types import ModuleType, SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from dropopt.study.show import display, progress
from dropopt.study.show.formatting import format_duration, format_percent, format_seconds
from dropopt.study.show.next_lines import Resume, next_lines
from dropopt.study.show.progress import Progress
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.keys import CONTINUES


@pytest.mark.parametrize(
    ("seconds", "clock", "unit"),
    [
        (0.25, "0:00", "0.25 s"),
        (59.4, "0:59", "59.4 s"),
        (59.6, "1:00", "59.6 s"),
        (61, "1:01", "61 s"),
        (119, "1:59", "119 s"),
        (120, "2:00", "2 min"),
        (3599.6, "1:00:00", "60 min"),
        (7199, "1:59:59", "120 min"),
        (7200, "2:00:00", "2.0 h"),
        (90_061, "25:01:01", "25.0 h"),
    ],
)
def test_durations_are_told_in_hours_minutes_and_seconds_or_in_one_unit(seconds, clock, unit):
    """Seconds up to two minutes, then minutes up to two hours."""
    assert (format_seconds(seconds), format_duration(seconds)) == (clock, unit)


def test_shares_are_told_in_percent():
    """With three significant digits."""
    assert [format_percent(share) for share in (0.10249, 1.0, 0.0, -0.5)] == ["10.2%", "100%", "0%", "-50%"]


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, as a list of one number that a test may change."""
    time = [0.0]
    for module in (display, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time[0]))
    return time


def test_the_time_left_is_estimated_from_the_trials_of_the_session(now):
    """Once two have ended; neither the trials before it nor the time before it opened its study count."""
    study = optuna.create_study()
    study.add_trials([create_trial(value=1.0)] * 4)
    file = io.StringIO()
    shown = Progress(Console(file=file, width=120, force_terminal=True), 10)

    def left():
        now[0] += 1 / display.REFRESH
        file.truncate(0)
        shown.tick()
        assert not shown.is_due, "it was drawn a moment ago"
        return file.getvalue().rpartition("time left ")[2].split()[0]

    with shown:
        now[0] = 1000.0  # torch and the data are loaded
        shown.opened(study)
        seen = []
        for _ in range(3):
            now[0] += 60 - 1 / display.REFRESH
            study.add_trial(create_trial(value=0.5))
            shown.ended(0, len(study.trials) - 1)
            seen.append(left())
    assert seen == ["-", "4:00", "3:00"]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_notebook_shows_the_lines_in_the_output_of_its_cell(monkeypatch, quiet):
    """They are redrawn in place, without ipywidgets, and removed at the end."""
    shown = []
    cell = ModuleType("IPython.display")
    cell.display = lambda lines, display_id: shown.append(lines) or SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", cell)
    with Progress(Console(force_jupyter=True, quiet=quiet), 10) as progress:
        progress.started(0, 7)
        progress._redraw()
    texts = [lines._repr_mimebundle_([], [])["text/plain"] for lines in shown]
    if quiet:
        assert not texts
    else:
        assert [bool(text.strip()) for text in texts] == [False, True, True, False]
        assert "0 of 10 trials" in texts[1]
        assert "slot 1  trial 7    starting" in texts[2]


def test_a_trial_that_continues_another_does_not_count():
    """It is no trial of the study's number, neither in the lines of a session nor in the command that goes on."""
    study = optuna.create_study()
    study.add_trials([create_trial(value=1.0)] * 3 + [create_trial(state=TrialState.PRUNED)])
    study.add_trial(create_trial(value=0.5, user_attrs={CONTINUES: 3}))
    file = io.StringIO()
    shown = Progress(Console(file=file, width=120), 4)
    shown.opened(study)
    study.add_trial(create_trial(value=0.4, user_attrs={CONTINUES: 3}))
    shown.ended(0, 5)
    assert file.getvalue().rstrip().endswith("(4 of 4 trials)")
    resume = Resume("dropopt run digits", 4)
    assert dict(next_lines(Snapshot.of(study), "", resume))["go on"] == "dropopt run digits --n-trials 8"


def test_a_trial_keeps_its_line_when_it_moves_to_another_slot():
    """The lines are in the order of the slots; one that has not ended an epoch is starting."""
    shown = Progress(Console(file=io.StringIO(), width=120), 10)
    shown.started(0, 7)
    shown.started(1, 8)
    shown.reported(0, 7, SimpleNamespace(epoch=3, epochs=9, objective=0.5, val_accuracy=0.25))
    shown.moved(0, 2)
    shown.moved(5, 0)
    lines = [" ".join(line.plain.split()) for line in shown._lines()]
    assert lines == [
        "slot 2 trial 8 starting",
        "slot 3 trial 7 epoch 3 of 9 smoothed loss 0.5000 accuracy 0.2500",
    ]


def test_a_trial_that_has_ended_has_no_line_and_its_failure_is_told():
    file = io.StringIO()
    shown = Progress(Console(file=file, width=120), 10)
    shown.started(0, 7)
    shown.started(1, 8)
    shown.restarted(0, 7, "it was killed")
    shown.ended(0, 7, "Broken: why")
    shown.ended(1, 8)
    assert shown._lines() == []
    assert file.getvalue().splitlines() == [
        "trial 7 continues in a new process: it was killed",
        "trial 7 failed: Broken: why",
    ]


def test_a_file_has_a_line_for_each_tenth_and_after_a_silence(now):
    """Besides those of new best trials, which count; what the study had before, and its last trial, have none."""
    study = optuna.create_study()
    study.add_trials([create_trial(value=0.5)] * 5)
    file = io.StringIO()
    shown = Progress(Console(file=file, width=120), 20)
    shown.opened(study)
    for value in (0.5, 0.4, *[0.5] * 13):
        now[0] += 60
        study.add_trial(create_trial(value=value))
        shown.ended(0, len(study.trials) - 1)
        shown.tick()
        if len(study.trials) == 10:
            now[0] += progress.SILENCE
            shown.tick()
    first, best, *lines = file.getvalue().splitlines()
    assert first == "6 of 20 trials: 6 complete; time left -"
    assert best.endswith("(7 of 20 trials)")
    assert [line.split()[0] for line in lines] == ["8", "10", "10", "12", "14", "16", "18"]
    assert lines[0] == "8 of 20 trials: 8 complete; time left 12:00"
