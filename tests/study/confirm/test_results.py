"""What the runs of a confirmation say, from runs made by hand: the winner, its anchor, the optimism and the test."""

import io
import re
from dataclasses import replace
from html import unescape

import optuna
import pytest
from confirmed_arms import arm, run
from optuna.trial import TrialState, create_trial
from printed import printed
from rich.console import Console
from scipy import stats

from dropopt.config import ConfigError, RunConfig, TaskConfig
from dropopt.study.confirm.arms import Arm
from dropopt.study.confirm.comparison import arm_result, compare_arms, comparison
from dropopt.study.confirm.intervals import holm, mean_of
from dropopt.study.confirm.ledger import Race, RunLedger, outs
from dropopt.study.confirm.results import confirmation
from dropopt.study.confirm.runs import CONFIGURATION, REPEAT, make_runs
from dropopt.study.report.build import build
from dropopt.study.show.confirmation import show_confirmation
from dropopt.study.store import keys

NAMES = {
    0: "trial 0",
    1: "trial 1",
    2: "trial 2",
    3: "no dropout",
    4: "element 0.1",
    5: "no dropout, trained as trial 2",
}
#: What the search had said of them.
SEARCHED = [0.25, 0.20, 0.22, 0.40, 0.41, 0.42]
#: The losses of the runs, by configuration and seed. Three seeds are asked for; an earlier confirmation had four.
LOSSES = {
    0: [0.30, 0.32, 0.31, 9.0],
    1: [0.28, 0.29],
    2: [0.21, 0.20, 0.22],
    3: [0.10, 0.11],
    4: [0.45, 0.48, 0.47],
}


def confirmed(losses=LOSSES, *, seeds=3, by="loss", task=None, out=(), accuracies=None, name="mine", storage=None):
    """A search, and the study of its runs. The metric of each run is 1 - loss / 2, unless its configuration has one."""
    search = optuna.create_study(study_name=name, storage=storage)
    base = RunConfig.parse({"task": task or {}}).model_dump(mode="json")
    search.set_user_attr(keys.BASE, base)
    for value in SEARCHED:
        search.add_trial(create_trial(value=value, user_attrs={keys.BEST_LOSS: value, keys.ACCURACY: 1 - value / 2}))
    runs = make_runs(search, keys.CONFIRMS, {keys.BASE: base}, "loss")
    entrants = [{"trial": number, "name": NAMES[number], "anchor": number > 2} for number in losses]
    facts = {keys.ENTRANTS: entrants, keys.SEEDS: seeds, keys.CHOSEN_BY: "value", keys.JUDGED_BY: by}
    for name, fact in facts.items():
        runs.set_user_attr(name, fact)
    for number in out:
        runs.set_user_attr(f"{keys.OUT}:{number}", "worse")
    for number, row in losses.items():
        for repeat, loss in enumerate(row):
            accuracy = (accuracies or {}).get(number, 1 - loss / 2)
            facts = {keys.BEST_LOSS: loss, keys.ACCURACY: accuracy, keys.VAL_ECE: loss / 10, keys.SECONDS: 2.0}
            runs.add_trial(run(number, repeat, value=loss, **facts))
    return search, runs


def test_a_report_has_the_verdict_of_the_confirmation():
    """A search says nothing that its confirmation does not; runs that belong to another search say nothing at all."""
    search, runs = confirmed(out=[2])
    verdict = f"Confirmed on 3 fresh seeds: {confirmation(search).verdict}."
    assert verdict in unescape(build(search, "").html)
    runs.set_user_attr(keys.CONFIRMS, "another")
    assert "Confirmed" not in build(search, "").html
    assert "Confirmed" not in build(optuna.create_study(study_name="new"), "").html


def test_the_winner_has_all_seeds_and_is_not_out():
    """The same holds for the anchor that it is compared with; runs of further seeds do not count."""
    found = confirmation(confirmed(out=[2])[0])
    assert found.winner.trial == 0
    assert found.winner.mean.n == 3
    assert found.winner.mean.mean == pytest.approx(0.31)
    assert found.anchor.trial == 4
    expected = stats.ttest_rel(LOSSES[0][:3], LOSSES[4])
    low, high = expected.confidence_interval(0.95)
    gap = found.to_anchor.interval
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.31 - 1.4 / 3, low, high))
    assert found.to_anchor.p == pytest.approx(expected.pvalue)
    assert [one.trial for one in found.configurations] == [2, 0, 4, 3, 1]
    below = f"it is {-gap.mean:.4f} (95% interval {-high:.4f} to {-low:.4f}) below the best anchor, element 0.1"
    assert found.verdict.endswith(below)
    assert -gap.mean > 0
    alone = confirmation(confirmed({number: LOSSES[number] for number in (0, 3)})[0])
    assert (alone.winner.trial, alone.anchor, alone.to_anchor) == (0, None, None)


def test_the_optimism_is_a_share_of_the_confirmed_mean():
    """Of the winner, and on average over those that the search chose, which anchors are not."""
    found = confirmation(confirmed(out=[2])[0])
    own, few, out = (mean - searched for mean, searched in ((0.31, 0.25), (0.285, 0.20), (0.21, 0.22)))
    assert found.optimism == pytest.approx(own / 0.31)
    assert found.mean_optimism == pytest.approx((own / 0.31 + few / 0.285 + out / 0.21) / 3)
    for mean, share in ((-0.5, (-0.5 - 0.25) / 0.5), (0.0, 0.0)):
        assert confirmation(confirmed({0: [mean] * 3})[0]).optimism == share


@pytest.mark.parametrize(("mean", "said"), [(0.251, "right to within 1%"), (0.3, "17% too low"), (0.2, "25% too high")])
def test_the_optimism_in_words(mean, said):
    """The search had given the configuration 0.25."""
    text = printed(lambda console: show_confirmation(console, confirmation(confirmed({0: [mean] * 3})[0])), 300)
    assert f"the search had given it the loss 0.2500, which is {said};" in text


def test_the_table_says_how_far_from_the_winner_a_configuration_is_that_the_race_dropped():
    """Its reason has the percentage to the leader at that time: 1% beside a mean that was 32% higher."""
    found = confirmation(confirmed(out=[1])[0])
    gap = found.from_winner(next(one for one in found.configurations if one.trial == 1)).interval
    text = printed(lambda console: show_confirmation(console, found), 300)
    assert f"{gap.mean:+.4f} +- {(gap.high - gap.low) / 2:.4f}, out" in text
    assert "out: " not in text


def test_a_configuration_that_failed_says_with_which_seed():
    """Its other seeds are shown; it is not the winner, although its mean is the lowest."""
    search, runs = confirmed({0: LOSSES[0], 1: LOSSES[1]})
    runs.add_trial(run(1, 2, TrialState.FAIL, **{keys.REASON: "DivergedError"}))
    found = confirmation(search)
    assert [(one.trial, one.stopped) for one in found.configurations] == [(0, ""), (1, "seed 3 failed: DivergedError")]
    assert found.winner.trial == 0


def test_a_configuration_that_failed_with_every_seed_is_shown_with_the_reason():
    """In the table and as values for JSON; it is never chosen, and one that is still to be trained did not fail."""
    search, runs = confirmed({0: LOSSES[0], 1: [], 2: [], 4: []})
    broken = {keys.REASON: "RuntimeError", keys.MESSAGE: "size mismatch\nat layer 3"}
    for repeat in range(4):  # the last one is of an earlier confirmation with more seeds
        runs.add_trial(run(1, repeat, TrialState.FAIL, **broken))
    runs.add_trial(run(2, 0, TrialState.FAIL, **{keys.REASON: "out of memory", keys.MESSAGE: "out of memory"}))
    found = confirmation(search)
    first = "failed with all 3 seeds: RuntimeError: size mismatch"
    assert [(one.name, one.why) for one in found.failed] == [
        ("trial 1", first),
        ("trial 2", "failed with seed 1: out of memory"),
    ]
    assert found.plain()["failed"][0] == {"trial": 1, "name": "trial 1", "why": first}
    assert (found.winner.trial, len(found.configurations)) == (0, 1)
    console = Console(file=io.StringIO(), width=160)
    show_confirmation(console, found)
    assert [" ".join(row.split()) for row in console.file.getvalue().splitlines() if first in row] == [
        f"│ trial 1 │ - │ {first} │ - │ 0 │"
    ]


def test_the_table_says_why_a_configuration_failed_that_is_out_of_the_race():
    """The race records what would fail again, also with a seed that is not asked for; its difference says nothing."""
    search, runs = confirmed({0: LOSSES[0], 1: LOSSES[1], 2: LOSSES[2]})
    runs.add_trial(run(1, 2, TrialState.FAIL, **{keys.REASON: "DivergedError"}))
    runs.add_trial(run(2, 5, TrialState.FAIL, **{keys.REASON: "DivergedError"}))
    RunLedger(runs, search, {}, race=Race(6, (0, 1, 2))).update_race()
    assert sorted(outs(runs)) == [1, 2]
    found = confirmation(search)
    assert [one.out for one in found.configurations] == ["", "", ""]
    text = printed(lambda console: show_confirmation(console, found), 300)
    assert "│ out: seed 3 failed: DivergedError " in text
    assert "│ out: it failed with seed 6: DivergedError " in text


def test_a_configuration_that_is_out_without_common_seeds_is_out():
    search, _ = confirmed({0: LOSSES[0], 1: LOSSES[1][:1]}, out=[1])
    text = printed(lambda console: show_confirmation(console, confirmation(search)), 300)
    assert re.search("trial 1 .* │ out +│", text)


def test_nothing_is_compared_with_configurations_that_failed():
    """The only one that did not fail is not said to be better, nor dropout not to help."""
    search, runs = confirmed({0: [], 2: [], 3: LOSSES[0]})
    for number in (0, 2):
        assert "dropout does not help" in confirmation(search).verdict  # the others may still be trained
        runs.add_trial(run(number, 0, TrialState.FAIL, **{keys.REASON: "DivergedError"}))
    said = confirmation(search).verdict
    assert said.startswith("no dropout is the only configuration that did not fail, so it is compared with none")
    assert f"({NAMES[0]}: seed 1, DivergedError); its loss is 0.3100 (95% interval" in said
    search, runs = confirmed({0: [0.3]})
    runs.add_trial(run(0, 1, TrialState.FAIL, **{keys.REASON: "DivergedError"}))
    assert confirmation(search).verdict.startswith(
        f"every configuration failed with one of the seeds ({NAMES[0]}: seed 2"
    )


@pytest.mark.parametrize(
    ("task", "by", "said"),
    [
        ({}, "loss", "lowest loss: 0.3100 (95% interval LOW to HIGH) over 3 seeds; it is not clearly better"),
        (
            {"metric": "mine:dice", "objective": "metric"},
            "accuracy",
            "highest dice: 0.6900 (95% interval LOW to HIGH) over 3 seeds; it is not clearly better",
        ),
    ],
)
def test_a_difference_is_clear_if_its_interval_is(task, by, said):
    """A mean below the anchor's is not enough. Differences of a metric are its own, the lower end first."""
    found = confirmation(confirmed({0: [0.30, 0.32, 0.31], 3: [0.30, 0.34, 0.32]}, task=task, by=by)[0])
    assert found.to_anchor.interval.mean < 0 < found.to_anchor.interval.high
    low, high = stats.ttest_1samp([0.30, 0.32, 0.31], 0).confidence_interval(0.95)
    gap, below, above = -0.01, *stats.ttest_1samp([0.0, -0.02, -0.01], 0).confidence_interval(0.95)
    if by == "accuracy":
        low, high, gap, below, above = 1 - high, 1 - low, -gap, -above, -below
    head = said.replace("LOW", f"{low:.4f}").replace("HIGH", f"{high:.4f}")
    tail = f"than the best anchor, no dropout (difference {gap:+.4f}, 95% interval {below:+.4f} to {above:+.4f})"
    assert found.verdict == f"trial 0 has the {head} {tail}"
    assert found.plain()["minimised"] == ("1 - dice" if by == "accuracy" else "loss")


@pytest.mark.parametrize(
    ("task", "by", "objective"),
    [
        ({}, "loss", [0.5, 0.6]),
        ({}, "accuracy", [0.2, 0.3]),
        ({"metric": "mine:worst", "direction": "minimize"}, "accuracy", [0.8, 0.7]),
    ],
)
def test_the_last_reading_of_the_test_split_counts(task, by, objective):
    """Once none of its runs is open. It is judged as the winner is: a metric to minimise is what it is."""
    search, _ = confirmed(task=task, by=by)
    tests = make_runs(search, keys.TESTS, {}, "loss")
    readings = [{"configuration": number, "seeds": 2, "at": f"day {number}"} for number in (3, 0)]
    tests.set_user_attr(keys.READINGS, readings[:1])
    tests.add_trial(run(3, 0, value=7.0, **{keys.TEST_LOSS: 7.0, keys.TEST_ACCURACY: 0.1}))
    assert confirmation(search).tested.trial == 3
    tests.set_user_attr(keys.READINGS, readings)
    for repeat, (loss, accuracy) in enumerate([(0.5, 0.8), (0.6, 0.7)]):
        tests.add_trial(run(0, repeat, value=loss, **{keys.TEST_LOSS: loss, keys.TEST_ACCURACY: accuracy}))
    found = confirmation(search).tested
    assert (found.trial, found.at) == (0, "day 0")
    assert list(found.test.objective.values()) == pytest.approx(objective)
    word = task.get("metric", "accuracy").removeprefix("mine:")
    plain = confirmation(search).plain()["test"]
    assert (plain["trial"], plain["read_at"], plain[word]["by_seed"]) == (0, "day 0", [0.8, 0.7])
    tests.enqueue_trial({CONFIGURATION: 0, REPEAT: 2})
    assert confirmation(search).tested is None


@pytest.mark.parametrize(("configuration", "seeds", "used"), [(0, 3, True), (0, 4, True), (0, 2, False), (2, 3, False)])
def test_an_arm_is_tested_by_all_networks_of_its_winner(configuration, seeds, used):
    """A reading for another configuration, or of fewer seeds, is not the result of the arm. Further seeds do not count:
    the means of all arms are over the same ones.
    """
    search, _ = confirmed(out=[2])
    tests = make_runs(search, keys.TESTS, {}, "loss")
    tests.set_user_attr(keys.READINGS, [{"configuration": configuration, "seeds": seeds, "at": "today"}])
    for repeat in range(seeds):
        tests.add_trial(run(configuration, repeat, **{keys.TEST_LOSS: 0.5, keys.TEST_ACCURACY: 0.8}))
    found = arm_result(search._storage, Arm("mine", "mine", True, RunConfig(), None))
    assert (found.test is not None, found.baseline) == (used, True)
    if used:
        assert [list(row) for row in vars(found.test).values()] == [[0, 1, 2]] * 3 + [[]]


def test_an_arm_without_a_confirmed_configuration_has_no_result():
    """Before its confirmation, and while that only begins."""
    search = optuna.create_study(study_name="mine")
    for begin in (False, True):
        if begin:
            make_runs(search, keys.CONFIRMS, {}, "loss")
        assert arm_result(search._storage, Arm("mine", "mine", True, RunConfig(), None)) is None


def test_a_seed_that_is_not_asked_for_does_not_fail_a_configuration():
    """An earlier confirmation with more seeds ran out of memory with one of them: the others have a result."""
    search, runs = confirmed()
    runs.add_trial(run(2, 5, TrialState.FAIL, **{keys.REASON: "out of memory"}))
    out = []
    RunLedger(runs, search, {}, race=Race(3, (2,)), on_out=lambda *one: out.append(one)).update_race()
    assert out == []
    found = confirmation(search)
    assert (found.winner.trial, found.winner.out) == (2, "")
    assert [one.stopped for one in confirmation(search, seeds=6).configurations if one.stopped] == [
        "seed 6 failed: out of memory"
    ]


def test_the_race_corrects_for_those_that_are_out():
    """The same losses are clear among two entrants, and not among many of which the others are out already."""
    losses = {0: [0.30, 0.31, 0.32], 1: [0.36, 0.38, 0.38]}
    decided = {}
    for count in (2, 50):
        search, runs = confirmed(losses, seeds=4, out=range(2, count))
        RunLedger(runs, search, {}, race=Race(4, tuple(range(count)))).update_race()
        decided[count] = 1 in outs(runs)
    assert decided == {2: True, 50: False}


def test_a_race_by_accuracy_is_one_of_its_own():
    """It compares errors, and who is out of it is not out of the race by loss."""
    losses = {0: [0.30, 0.31, 0.32], 1: [0.30, 0.31, 0.32]}
    search, runs = confirmed(losses, accuracies={1: 0.2})
    for by in (None, "accuracy"):
        RunLedger(runs, search, {}, race=Race(3, (0, 1), by=by)).update_race()
        assert list(outs(runs, by)) == ([1] if by else [])
    assert outs(runs) == {}
    assert [one.out for one in confirmation(search).configurations] == ["", ""]
    runs.set_user_attr(keys.JUDGED_BY, "accuracy")
    found = confirmation(search)
    assert [bool(one.out) for one in found.configurations] == [False, True]
    assert "lowest error: 0.1550" in found.verdict


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({0: [0.5, 0.5, 0.5], 3: [0.4, 0.4, 0.4]}, "dropout does not help here: no dropout has the lowest loss: 0.4"),
        (
            {0: [0.5, 0.5, 0.5], 5: [0.4, 0.4, 0.4]},
            "dropout does not help here: no dropout, trained as trial 2 has the lowest loss: 0.4",
        ),
        ({0: [0.5, 0.5, 0.5], 4: [0.4, 0.4, 0.4]}, "seeds; no configuration of the search is better than this anchor"),
        (
            {0: [0.51, 0.5, 0.53], 3: [0.5, 0.51, 0.52]},
            "over 3 seeds; it is not clearly better than the best with dropout, trial 0 (difference -0.0033, ",
        ),
        (
            {0: [0.6, 0.6, 0.6], 4: [0.5, 0.51, 0.52], 3: [0.51, 0.5, 0.53]},
            "over 3 seeds; it is not clearly better than no dropout (difference -0.0033, 95% interval -0.0320 to "
            "+0.0254); no configuration of the search is better than this anchor",
        ),
        (
            {0: [0.6, 0.6, 0.6], 4: [0.5, 0.51, 0.52], 3: [0.55, 0.55, 0.56]},
            "over 3 seeds; it is 0.0433 (95% interval 0.0290 to 0.0577) below no dropout; no configuration of the ",
        ),
        ({0: [0.5, 0.5]}, "no configuration has been trained on all seeds yet"),
    ],
)
def test_the_verdict_where_no_configuration_of_the_search_wins(losses, said):
    """An anchor may win, and dropping nothing is one."""
    assert said in confirmation(confirmed(losses)[0]).verdict


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            {0: [20e-6, 22e-6, 21e-6], 4: [31e-6, 30e-6, 32e-6]},
            "loss: 0.0000210 (95% interval 0.0000185 to 0.0000235) over 3 seeds; "
            "it is 0.0000100 (95% interval 0.0000057 to 0.0000143) below the best anchor, element 0.1",
        ),
        (
            {0: [20e-6, 22e-6, 21e-6], 4: [22e-6, 20e-6, 22e-6]},
            "(difference -0.00000033, 95% interval -0.00000550 to +0.00000484)",
        ),
    ],
)
def test_losses_near_zero_are_told_apart(losses, said):
    """Those of a regression may all be 0.0000 in four decimals; the values of a sentence have the same decimals."""
    assert said in confirmation(confirmed(losses)[0]).verdict


def test_runs_of_further_seeds_do_not_race():
    """An earlier confirmation with more seeds would otherwise be a look that the level is not corrected for."""
    losses = {0: [0.30, 0.31, 0.30], 1: [0.30, 0.32, 0.30, *[0.9, 0.91, 0.92] * 3]}
    losses[0] += [0.30] * 9
    search, runs = confirmed(losses, seeds=3)
    RunLedger(runs, search, {}, race=Race(3, (0, 1))).update_race()
    assert outs(runs) == {}


def test_arms_are_compared_with_the_best_confirmed_baseline():
    """Not with the one that the search found best."""
    arms = [
        arm("lucky", [0.5, 0.52, 0.54], baseline=True, searched=0.1),
        arm("steady", [0.40, 0.41, 0.43], baseline=True, searched=0.35),
        arm("engine", [0.30, 0.315, 0.32]),
    ]
    found = compare_arms(arms)
    assert (found.reference, found.tested) == ("steady", False)
    assert [one.name for one in found.arms] == ["engine", "steady", "lucky"]
    assert [one.arm for one in found.contrasts if one.better] == ["engine"]
    assert " after Holm's correction; accuracy higher, +" in found.verdict


def test_no_arm_is_better_by_an_uncorrected_p():
    """A difference below 5% that is above it after the correction is not called one."""
    base, other = [0.40, 0.41, 0.43, 0.42], [0.37, 0.40, 0.405, 0.41]
    p = stats.ttest_rel(other, base).pvalue
    arms = [arm("base", base, baseline=True), *(replace(arm("a", other), name=name) for name in ("a", "b", "c"))]
    assert p < 0.05 < 3 * p
    assert compare_arms(arms[:2]).contrasts[0].better
    assert not any(one.better for one in compare_arms(arms).contrasts)


def test_the_test_split_counts_if_every_arm_has_it():
    """Then it orders the arms; the reference is still chosen on the validation split."""
    arms = [
        arm("base", [0.40, 0.41, 0.42], baseline=True, test=[0.50, 0.51, 0.52]),
        arm("other", [0.41, 0.43, 0.42], baseline=True, test=[0.30, 0.31, 0.32]),
    ]
    found = compare_arms(arms)
    assert (found.tested, found.reference) == (True, "base")
    assert [one.name for one in found.arms] == ["other", "base"]
    assert found.verdict.startswith("better than the best baseline, base: other (test loss 0.2000 lower")
    part = compare_arms([arms[0], replace(arms[1], test=None)])
    assert not part.tested
    assert part.contrasts[0].objective.interval.mean == pytest.approx(0.01)


def scores(losses, accuracies, word):
    """Scores as values for JSON."""
    rows = {"objective": losses, "loss": losses, word: accuracies}
    return {name: {**mean_of(values).plain(), "by_seed": values} for name, values in rows.items()}


def test_a_confirmation_as_values_for_json():
    """Every number of the result, and the metric by its own name."""
    losses = {0: [0.30, 0.32, 0.31], 3: [0.40, 0.44, 0.41]}
    search, _ = confirmed(losses, task={"metric": "mine:dice"}, out=[3])
    found = confirmation(search)
    kept = confirmation(confirmed(losses, task={"metric": "mine:dice"})[0])
    rows = [
        {
            "trial": number,
            "name": NAMES[number],
            "anchor": number == 3,
            "searched": SEARCHED[number],
            "out": "worse" if number == 3 else None,
            "seconds": 6.0,
            **scores(row, [1 - loss / 2 for loss in row], "dice"),
            "ece": {**mean_of([loss / 10 for loss in row]).plain(), "by_seed": [loss / 10 for loss in row]},
        }
        for number, row in losses.items()
    ]
    gap = stats.ttest_rel(losses[0], losses[3])
    low, high = gap.confidence_interval(0.95)
    difference = {"mean": -0.32 / 3, "low": low, "high": high, "n": 3, "p": gap.pvalue}
    rows[0]["minus_winner"] = None
    opposite = {"mean": 0.32 / 3, "low": -high, "high": -low, "n": 3, "p": gap.pvalue}
    rows[1]["minus_winner"] = pytest.approx(opposite)
    facts = {
        "study": "mine",
        "optimise": "loss",
        "minimised": "loss",
        "metric": "dice",
        "chosen_by": "value",
        "seeds": 3,
        "winner": 0,
        "optimism": pytest.approx((0.31 - 0.25) / 0.31),
        "mean_optimism": pytest.approx((0.31 - 0.25) / 0.31),
        "test": None,
    }
    alone = {"best_anchor": None, "winner_minus_best_anchor": None, "verdict": found.verdict}
    assert found.plain() == facts | alone | {"configurations": rows, "failed": []}
    plain = kept.plain()
    assert plain["winner_minus_best_anchor"] == pytest.approx(difference)
    assert (plain["best_anchor"], plain["configurations"][1]["out"]) == (3, None)


def test_a_comparison_as_values_for_json_and_in_words():
    """Every number of the result; the verdict names those that are better, not clearly different, and worse."""
    losses = {
        "base": [0.40, 0.41, 0.43],
        "far": [0.30, 0.315, 0.32],
        "near": [0.39, 0.42, 0.44],
        "bad": [0.60, 0.61, 0.64],
        "worst": [0.70, 0.71, 0.74],
    }
    arms = [arm(name, row, baseline=name == "base") for name, row in losses.items()]
    found = compare_arms(arms, notes=["a note"], task=TaskConfig(metric="mine:dice"))
    gaps = {name: stats.ttest_rel(losses[name], losses["base"]) for name in losses if name != "base"}
    ends = {name: gap.confidence_interval(0.95) for name, gap in gaps.items()}
    means = {name: sum(losses[name]) / 3 - sum(losses["base"]) / 3 for name in gaps}
    p = dict(zip(gaps, holm([gap.pvalue for gap in gaps.values()]), strict=True))
    assert found.verdict == (
        f"better than the best baseline, base: far (validation loss {-means['far']:.4f} lower, 95% interval "
        f"{-ends['far'].high:.4f} to {-ends['far'].low:.4f}, p = {p['far']:.2g} after Holm's correction; dice higher, "
        f"{-means['far']:+.4f}). Not clearly different from it: near. Worse: bad, worst"
    )
    plain = found.plain()
    contrasts = plain.pop("contrasts")
    assert plain == {
        "optimise": "loss",
        "metric": "dice",
        "seeds": 3,
        "split": "validation",
        "arms": [
            {
                "name": name,
                "study": name,
                "baseline": name == "base",
                "winner": 0,
                "searched": 0.3,
                "validation": scores(losses[name], [1 - loss for loss in losses[name]], "dice"),
                "test": None,
                "search": {"trials": 1, "epochs": 1, "seconds": 1.0},
                "confirm": {"trials": 1, "epochs": 1, "seconds": 1.0},
            }
            for name in ("far", "base", "near", "bad", "worst")
        ],
        "reference": "base",
        "notes": ["a note"],
        "verdict": found.verdict,
    }
    assert [one["arm"] for one in contrasts] == list(gaps)
    for one in contrasts:
        name, gap = one["arm"], {"mean": means[one["arm"]], "low": ends[one["arm"]].low, "high": ends[one["arm"]].high}
        assert one["difference"] == pytest.approx(gap | {"n": 3})
        mirrored = {"mean": -gap["mean"], "low": -gap["high"], "high": -gap["low"], "n": 3}
        assert one["dice_difference"] == pytest.approx(mirrored)
        assert (one["p"], one["p_adjusted"]) == pytest.approx((gaps[name].pvalue, p[name]))
        assert one["ece_difference"] is None
    dice = compare_arms(arms, optimise="accuracy", task=TaskConfig(metric="mine:dice", objective="metric")).verdict
    assert f"far (validation dice {-means['far']:.4f} higher, 95% interval " in dice
    assert f"p = {p['far']:.2g} after Holm's correction). Not clearly" in dice


def test_studies_that_were_confirmed_are_compared():
    """By what they were confirmed by, with the notes about them. One that was not confirmed cannot be an arm."""
    facts = {"by": "accuracy", "task": {"metric": "mine:dice"}}
    first, _ = confirmed({0: [0.30, 0.32, 0.31]}, name="first", **facts)
    other, _ = confirmed({1: [0.20, 0.22, 0.25]}, name="other", storage=first._storage, **facts)
    other.add_trial(create_trial(value=0.5))
    found = comparison([first, other], reference="other")
    assert (found.optimise, found.score, found.reference) == ("accuracy", "dice", "other")
    assert [(one.name, one.winner.trial) for one in found.arms] == [("other", 1), ("first", 0)]
    assert found.contrasts[0].objective.interval.mean == pytest.approx((0.31 - 0.67 / 3) / 2)
    assert found.notes == ("the arms do not have the same number of trials: first 6, other 7",)
    confirmed({0: [0.3]}, name="just begun", storage=first._storage, **facts)
    begun = optuna.load_study(study_name="just begun", storage=first._storage)
    with pytest.raises(
        ConfigError, match=r"^study 'just begun' is not .*; type: dropopt confirm --study 'just begun'$"
    ):
        comparison([first, begun])


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([0.5, 0.51, 0.52], "accuracy lower, -0.0867"),
        ([0.6, 0.58, 0.58], "accuracy not clearly different, -0.0100"),
        ([], "accuracy not known"),
    ],
)
def test_the_accuracy_of_a_better_arm_is_told(accuracies, said):
    """Which may be lower although the loss is lower, or not differ clearly."""
    base, better = arm("base", [0.40, 0.41, 0.42], baseline=True), arm("better", [0.30, 0.315, 0.32])
    base = replace(base, winner=replace(base.winner, validation=_scored(base, [0.60, 0.59, 0.60])))
    better = replace(better, winner=replace(better.winner, validation=_scored(better, accuracies)))
    assert compare_arms([base, better]).verdict.endswith(f"{said})")


def _scored(one, accuracies):
    return replace(one.winner.validation, accuracy=dict(enumerate(accuracies)))


def test_the_reference_may_be_named():
    """It may be any arm; without a baseline it is the first one. Two seeds in common are the fewest."""
    arms = [arm("one", [0.40, 0.41, 0.43]), arm("two", [0.40, 0.42, 0.43]), arm("few", [0.3])]
    found = compare_arms(arms[:2], reference="two")
    assert found.verdict == (
        "no arm is better than the reference, two, in validation loss. Not clearly different from it: one"
    )
    assert compare_arms(arms[:2]).reference == "one"
    with pytest.raises(ConfigError, match=r"^no arm is called 'three'; the arms are: one, two$"):
        compare_arms(arms[:2], reference="three")
    with pytest.raises(ConfigError, match=r"^arms few and one have fewer than two seeds in common$"):
        compare_arms(arms)
