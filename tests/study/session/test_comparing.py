"""``dropopt compare``: equal conditions, common seeds, and the words of the verdict."""

import errno
import html
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import fake_study
import pytest
from confirmed_arms import arm
from fake_confirm import compare, confirm
from fake_study import trials

from dropopt.config import ConfigError
from dropopt.study.session import comparing, confirming
from dropopt.study.show.comparison import check_figure, figure, write_figure
from dropopt.study.store.sqlite_lock import is_held

TRAIN = "train:\n  lr: {low: 0.01, high: 0.5, log: true}\n"
SPACES = {
    "low.yaml": "engine:\n  r0: {low: 0.0, high: 0.1}\n" + TRAIN,
    "high.yaml": "engine:\n  r0: {low: 0.6, high: 0.7}\n" + TRAIN,
    "other.yaml": "engine:\n  r0: {low: 0.6, high: 0.7}\ntrain:\n  lr: {low: 0.1, high: 0.5}\n",
}


@pytest.fixture(autouse=True)
def _spaces(here):
    for name, text in SPACES.items():
        Path(name).write_text(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A journal file with a search of one trial in each of the first two spaces."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("low", "high"):
        (folder / f"{name}.yaml").write_text(SPACES[f"{name}.yaml"])
        fake_study.run(
            str(folder / "study.log"), n_jobs=1, n_trials=1, name=f"cmp-{name}", space=str(folder / f"{name}.yaml")
        )
    return folder / "study.log"


@pytest.fixture
def _searched(finished):
    """The searches, in the working folder."""
    shutil.copy(finished, "study.log")


def disk_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_spaces_are_searched_confirmed_and_compared(capsys, monkeypatch):
    """In the fake training a lower rate is better, so the low arm beats the reference; the same line goes on."""
    arms = ["low.yaml", "high.yaml"]
    code, found = compare("study.log", arms, reference="high")
    assert code == 0
    output = capsys.readouterr().out
    assert "cost: at most 8 trials and 8 runs of 8 epochs, 2 at a time, about" in output
    assert [len(trials("study.log", f"cmp-{name}")) for name in ("low", "high")] == [4, 4]
    seeds = [
        {trial.user_attrs["seed"] for trial in trials("study.log", f"cmp-{name}-confirmed")} for name in ("low", "high")
    ]
    assert seeds[0] == seeds[1]
    assert [arm.name for arm in found.arms] == ["low", "high"]
    [contrast] = found.contrasts
    low, high = found.arms
    gap = [low.test.objective[seed] - high.test.objective[seed] for seed in range(4)]
    assert contrast.objective.interval.mean == pytest.approx(sum(gap) / 4)
    assert contrast.better
    assert found.verdict.startswith("better than the reference, high: low (test loss ")
    assert "accuracy higher" in found.verdict
    assert low.search.epochs == sum(len(trial.intermediate_values) for trial in trials("study.log", "cmp-low"))
    # Studies as arms, one of them by its space again: nothing is left to do.
    code, again = compare("study.log", ["study:cmp-low", "high.yaml"], reference="high")
    assert "cost: none, because all trials and runs have ended" in capsys.readouterr().out
    assert [arm.winner for arm in again.arms] == [arm.winner for arm in found.arms]
    with pytest.raises(ConfigError, match=r"no such study; it has: cmp-high, cmp-low$"):  # not their confirmations
        compare("study.log", ["low.yaml", "study:nothing"])
    picture = figure(found)
    assert list(picture.layout.yaxis.ticktext) == ["low", "high"]
    write_figure(found, Path("figure.html"))
    page = Path("figure.html").read_text()
    assert "<title>Comparison of low, high</title>" in page
    assert f"{html.escape(found.verdict[1:])}.</p>" in page
    assert re.search(r'role="img" aria-label="Loss and accuracy of low, high: means [^"]*better than', page)
    # A figure that cannot be written does not hide the result.
    monkeypatch.setattr(comparing, "compare", lambda *_: (0, found))
    monkeypatch.setattr("dropopt.study.show.comparison.write_whole", disk_full)
    with pytest.raises(SystemExit) as ended:
        fake_study.make().compare(arms, ["-o", "figure.html"])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "better than the reference, high" in shown.out
    assert shown.err.startswith("dropopt: figure.html cannot be written: No space left on device; the result is stored")


@pytest.mark.usefixtures("_searched")
def test_the_cost_is_that_of_what_is_left(monkeypatch, capsys):
    """Runs that have ended are not counted again; those that a further trial of the search may replace are."""
    confirm("study.log", study="cmp-low", top=1, seeds=2, anchors=False)
    monkeypatch.setattr(comparing, "_search_and_confirm", lambda *_: 1)
    for n_trials, cost in ((1, "0 trials and 6 runs"), (2, "2 trials and 8 runs")):
        compare("study.log", ["low.yaml", "high.yaml"], study={"n_trials": n_trials})
        assert f"cost: at most {cost} of 8 epochs" in capsys.readouterr().out
    compare("study.log", ["study:cmp-low", "study:cmp-high"])
    assert "cost: at most 0 trials and 6 runs" in capsys.readouterr().out


def test_an_unfair_comparison_is_reported(capsys):
    """Other ranges of training settings and other budgets are notes, which the result keeps."""
    fake_study.run("study.log", n_trials=2, name="cmp-low", space="low.yaml")
    code, found = compare("study.log", ["study:cmp-low", "other.yaml"], study={"n_trials": 3}, seeds=2)
    assert code == 0
    ranges, budgets = found.notes
    assert "lr (0.01 to 0.5, logarithmic and 0.1 to 0.5)" in ranges
    assert "the arms do not have the same number of trials: cmp-low 2, other 3" in budgets
    assert f"note: {budgets}" in capsys.readouterr().out
    # A space whose search has more trials than it would have now.
    code, found = compare("study.log", ["low.yaml", "other.yaml"], study={"n_trials": 2}, seeds=2)
    assert "the arms do not have the same number of trials: low 2, other 3" in found.notes


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        (["low.yaml"], {}, "a comparison needs two or more arms, got 1"),
        (["low.yaml", "low.yaml"], {}, "two arms have the same name: low"),
        (["low.yaml", "study:nothing"], {}, "arm study:nothing: the storage has no such study; it has: none"),
        (["low.yaml", "high.yaml"], {"reference": "x"}, "--baseline x is none of the arms: low, high"),
        (
            ["low.yaml", "nothing"],
            {},
            r"arm nothing is neither a search space \(blend, .* nor a study in the storage \(none",
        ),
        (["low.yaml", "nothing.yaml"], {}, "search space nothing.yaml does not exist"),
    ],
)
def test_mistakes_are_reported_before_the_first_trial(arms, options, message):
    """In one line, with what is allowed."""
    with pytest.raises(ConfigError, match=message):
        compare("study.log", arms, **options)
    assert not Path("study.log").exists()


@pytest.mark.usefixtures("_searched")
def test_the_last_line_of_a_comparison_that_was_stopped(monkeypatch, capsys):
    """A signal to the confirmation of an arm is not a failure of that arm."""
    monkeypatch.setattr(comparing, "confirm", lambda *_: (143, None))
    assert compare("study.log", ["low.yaml", "high.yaml"], study={"n_trials": 1}) == (143, None)
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on where it was"

    def stopped(_, signals, __):
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(30)  # the signal is received by another thread

    monkeypatch.setattr(comparing, "seconds_of_an_epoch", stopped)
    assert compare("new.log", ["low.yaml", "high.yaml"]) == (143, None)
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on where it was"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "_plans", interrupt)  # before the first search
    with pytest.raises(SystemExit) as ended:
        fake_study.make().compare(["low.yaml", "high.yaml"], [])
    assert ended.value.code == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on where it was"


@pytest.mark.usefixtures("_searched")
def test_every_arm_is_confirmed_as_asked(monkeypatch, capsys):
    """By what the user chose, which is also what the result is judged by; without anchors, which are in every arm."""
    asked = []
    monkeypatch.setattr(comparing, "seconds_of_a_trial", lambda study: 60.0)
    monkeypatch.setattr(
        comparing, "confirm", lambda request, _: asked.append(request) or (0, SimpleNamespace(winner=1))
    )
    judged = []

    def result(_, one, **options):
        judged.append(options)
        return arm(one.name, [0.3, 0.4], baseline=one.name == "low")

    monkeypatch.setattr(comparing, "arm_result", result)
    options = {"optimise": "accuracy", "seeds": 3, "top": 2, "n_jobs": 4, "again": True}
    code, found = compare("study.log", ["low.yaml", "high.yaml"], study={"n_trials": 1}, **options)
    assert [one.study for one in asked] == ["cmp-low", "cmp-high"]
    for one in asked:
        assert {name: getattr(one, name) for name in options} == options
        assert not one.anchors
    assert judged == [{"seeds": 3, "by": "accuracy"}] * 2
    assert (code, found.optimise, found.scale.name) == (0, "accuracy", "error")
    # Twelve runs of a minute each, four at a time.
    assert (
        "cost: at most 0 trials and 12 runs of 8 epochs, 4 at a time, about 3:00 (60.0 s each"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"seeds": 10, "top": 3, "n_jobs": -1, "optimise": None, "reference": None, "again": False, "n_trials": 6}),
        (["--quick"], {"seeds": 3, "top": 2, "n_trials": 10}),
        (["--quick", "--seeds", "7", "--top", "4", "--n-trials", "5"], {"seeds": 7, "top": 4, "n_trials": 5}),
        (["--optimise", "accuracy", "--n-jobs", "2", "--baseline", "low", "--again"],
         {"optimise": "accuracy", "n_jobs": 2, "reference": "low", "again": True}),
        (["--storage", "a.log", "--seed", "5"], {"storage": "a.log", "seed": 5}),
    ],
)  # fmt: skip
def test_options_reach_the_comparison(given, expected, monkeypatch):
    """An option that is given replaces what --quick and the script say."""
    asked = []
    monkeypatch.setattr(comparing, "compare", lambda request, _: asked.append(request) or (0, None))
    with pytest.raises(SystemExit):
        fake_study.make().compare(["low.yaml", "high.yaml"], given)
    [request] = asked
    assert request.arms == ["low.yaml", "high.yaml"]
    known = vars(request) | dict(request.definition) | {"optimise": request.optimise}
    assert {name: known[name] for name in expected} == expected


@pytest.mark.usefixtures("_searched")
def test_an_arm_whose_trials_all_fail_is_named(monkeypatch, capsys):
    """In the last line, when its search ends and when the command is typed again; no arm is confirmed before."""
    arms = ["low.yaml", "other.yaml"]
    monkeypatch.setenv("FAKE_FAULT", "raise:always")
    assert compare("study.log", arms, study={"n_trials": 1}) == (1, None)
    assert capsys.readouterr().out.splitlines()[-1] == "arm other: no trial of its search has a result"
    with pytest.raises(
        ConfigError, match=r"arm other: study 'cmp-other' has no completed trial \(1 failed\); give a larger --n-trials"
    ):
        compare("study.log", arms, study={"n_trials": 1})
    with pytest.raises(ConfigError, match=r"arm cmp-other: .* \(1 failed\); run it first"):
        compare("study.log", ["low.yaml", "study:cmp-other"], study={"n_trials": 1})


def test_no_other_process_writes_to_a_sqlite_file_between_the_steps(monkeypatch):
    """A command that is typed meanwhile is refused, and never the comparison, which may have run for hours."""
    held = []

    def confirm(*arguments):
        held.append(is_held(Path("study.db")))
        return confirming.confirm(*arguments)

    monkeypatch.setattr(comparing, "confirm", confirm)
    code, _ = compare("sqlite:///study.db", ["low.yaml", "high.yaml"], {"n_trials": 1}, seeds=2, n_jobs=1)
    assert (code, held) == (0, [True, True])
    assert not is_held(Path("study.db"))
    assert not Path("study.db.lock").exists()


@pytest.mark.usefixtures("_searched")
def test_settings_that_have_changed_since_an_arm_was_searched_are_refused():
    """Although its search is complete, and nothing of it is left to run."""
    with pytest.raises(ConfigError, match=r"study 'cmp-low' exists and was created with train\.epochs = 8, not 9"):
        compare("study.log", ["low.yaml", "high.yaml"], study={"n_trials": 1, "train": {"epochs": 9}})
    Path("low.yaml").write_text(SPACES["high.yaml"])
    with pytest.raises(ConfigError, match=r"study 'cmp-low' exists and its search space \(low\) has changed since"):
        compare("study.log", ["low.yaml", "high.yaml"], study={"n_trials": 1})


def test_a_figure_that_cannot_be_written_is_reported_at_once(capsys):
    """By its suffix; PNG needs another package."""
    with pytest.raises(ConfigError, match=r"must be a .html, .png or .svg file, got figure.pdf"):
        check_figure(Path("figure.pdf"))
    with pytest.raises(SystemExit):
        fake_study.make().compare(["low.yaml", "high.yaml"], ["-o", "none/figure.html"])
    assert "none/figure.html cannot be written: its folder does not exist" in capsys.readouterr().err
