"""Answers in words: what is claimed of given estimates, how much is claimed, and what the study optimises."""

from dataclasses import replace

import optuna
import pytest

from dropopt.config import RunConfig
from dropopt.study.effects.factors import Factor
from dropopt.study.effects.importance import Importance
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.objective import Objective, objective_of
from dropopt.study.effects.profiles import Level, Profile, levels_of
from dropopt.study.effects.words import FactorEffect, Writer
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import BASE

NOTHING, LOSS = Estimate(0.0, 0.0, 0.0), Objective("loss")


def level(label, best, average=NOTHING, chance=0.0):
    return Level(label, label, average, best, chance)


def effect(name, levels, *, noisy=0.3, total=0.5, optimum=None, negative=0.0, without=None):
    """What is known of a factor; ``noisy`` and ``total`` are the lower limits of its importances."""
    labels = tuple(one.label for one in levels)
    factor = Factor(name, "number", (name,), high=1.0) if optimum else Factor(name, "choice", (name,), choices=labels)
    importance = Importance(*(Estimate(low + 0.2, low, low + 0.4) for low in (0.0, total, noisy)))
    return FactorEffect(factor, importance, Profile(tuple(levels), optimum, negative, without))


def answers(*effects, trials=50, ratio=True, objective=LOSS):
    known = {one.name: one for one in effects}
    factors = [one.factor for one in effects]
    writer = Writer(factors, known, trials=trials, needed=10, ratio=ratio, objective=objective)
    return {answer.question: answer for answer in writer.answers()}


@pytest.mark.parametrize(
    ("ratio", "estimate", "said"),
    [
        (True, Estimate(0.12, 0.07, 0.18), "12% (90%: 7.0% to 18%)"),
        (True, Estimate(9.0, 4.0, 19.0), "a factor of 10 (90%: 5 to 20)"),
        (False, Estimate(9.0, 4.0, 19.0), "9 (90%: 4 to 19)"),
        (True, Estimate(2.0, 1.0, 5.0), "a factor of 3 (90%: 2 to 6)"),
    ],
)
def test_a_cost_is_a_share_a_factor_or_in_units(ratio, estimate, said):
    """A cost of 9 times the loss is a loss 10 times as high."""
    assert Writer([], {}, trials=1, needed=1, ratio=ratio, objective=Objective("loss")).cost(estimate) == said


def test_a_number_is_best_where_an_end_is_clearly_worse():
    """Only an end whose interval is above 0 is said to cost something. A factor near 0 gives no claim."""
    ends = [level("0", Estimate(0.2, 0.1, 0.3)), level("0.7", Estimate(0.1, -0.01, 0.2))]
    facts = {"optimum": Estimate(0.3, 0.2, 0.4), "without": NOTHING}
    said = "A rate (r0) of 0.3 (90%: 0.2 to 0.4) is best; 0 costs 20% (90%: 10% to 30%)"
    assert answers(effect("r0", ends, **facts))["how much"].text == f"{said}."
    both = [ends[0], level("0.7", Estimate(0.1, 0.05, 0.2))]
    text = answers(effect("r0", both, **facts))["how much"].text
    assert text == f"{said} and 0.7 costs 10% (90%: 5.0% to 20%)."
    silent = answers(effect("r0", ends, noisy=0.004, **facts))["how much"]
    assert (silent.found, silent.text.startswith("No effect was found of r0 (")) == (False, True)


def test_a_number_called_kind_does_not_turn_dropout_off():
    """Only the choice ``none`` of a ``kind`` does; a study of another program may have numbers of this name."""
    kind = effect("kind", [level("0", NOTHING), level("3", NOTHING)], optimum=Estimate(1, 0, 3))
    assert answers(kind)["whether"].text == "The search space has no configuration without dropout, or nothing else."


def test_levels_of_large_numbers_are_told_apart():
    """Numbers from 1,000 on are written in full, because 1.02e+03 would stand for 1024 and for 1016."""
    sizes = [1000, 1008, 1016, 1024]
    factor = Factor("batch_size", "number", ("batch_size",), low=1000, high=1024, levels=4)
    labels = levels_of(factor)[0]
    assert labels == [str(size) for size in sizes]
    levels = [level(label, Estimate(0.1 * row, 0.05 * row, 0.2 * row)) for row, label in enumerate(labels)]
    best = effect("p", levels, optimum=Estimate(1000, 1000, 1008), without=NOTHING)
    assert "A rate (p) of 1000 (90%: 1000 to 1008) is best; 1024 costs" in answers(best)["how much"].text


@pytest.mark.parametrize(
    ("negative", "said"),
    [
        (0.95, ", so the rate should rise WAY (probability 0.95)."),
        (0.05, ", so the rate should fall WAY, or stay constant (probability 0.95)."),
        (0.5, "; whether the rate should rise or fall WAY is not known (rise: probability 0.50)."),
    ],
)
def test_alpha_says_where_and_when(negative, said):
    """An alpha below 0 makes the rate rise with depth and during training, and one above 0 makes it fall."""
    ends = [level("-1", Estimate(0.2, 0.1, 0.3)), level("1", Estimate(0.1, 0.05, 0.2))]
    found = answers(effect("alpha", ends, optimum=Estimate(0.3, 0.2, 0.4), negative=negative))
    assert found["where"].text.endswith(said.replace("WAY", "with depth"))
    assert found["when"].text.endswith(said.replace("WAY", "during training"))


def test_a_choice_is_best_if_others_are_clearly_worse():
    """The cheapest of the worse ones first; one that may cost nothing is a candidate if it may be the best."""
    worse = [level("c", Estimate(0.3, 0.2, 0.4)), level("b", Estimate(0.1, 0.05, 0.15))]
    costs = "b costs 10% (90%: 5.0% to 15%), c costs 30% (90%: 20% to 40%)"
    certain = answers(effect("pattern", [level("a", NOTHING, chance=0.95), *worse]))["which"]
    assert certain.text == f"pattern: a is best (probability 0.95); {costs}."
    other = level("d", Estimate(0.02, -0.01, 0.05), chance=0.4)
    open_ = answers(effect("pattern", [other, level("a", NOTHING, chance=0.6), *worse]))["which"]
    assert open_.text == f"pattern: the best is one of a (0.60), d (0.40) (probability); {costs}."


def test_an_effect_on_average_needs_to_matter_beside_the_noise():
    """The share is that of single trainings: a factor that matters only without their noise gives no claim."""
    levels = [
        level("a", NOTHING, average=NOTHING, chance=0.6),
        level("b", Estimate(0.1, -0.02, 0.2), average=Estimate(0.1, 0.05, 0.15), chance=0.4),
    ]
    text = answers(effect("pattern", levels, noisy=0.06))["which"].text
    assert text.startswith(
        "pattern: on average over the other settings, b costs 10% (90%: 5.0% to 15%) compared with a;"
    )
    assert not answers(effect("pattern", levels, noisy=0.04, total=0.5))["which"].found


HELPS, HARMS, UNCLEAR = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.1, -0.02, 0.2)


@pytest.mark.parametrize(
    ("estimate", "maximise", "said"),
    [
        (HELPS, False, "Dropout helps: without it, score is 0.2 (90%: 0.1 to 0.3) higher."),
        (HELPS, True, "Dropout helps: without it, score is 0.2 (90%: 0.1 to 0.3) lower."),
        (HARMS, False, "Dropout does not help here: without it, score is 0.2 (90%: 0.1 to 0.3) lower."),
        # Without dropout the score may be worse: higher if it is minimised, lower if it is maximised. The interval
        # is 1.2 times too wide, which takes 1.44 times the trials.
        (UNCLEAR, False, "Not known: without dropout, the change of score is 0.1 (90%: -0.02 to 0.2); MORE"),
        (UNCLEAR, True, "Not known: without dropout, the change of score is -0.1 (90%: -0.2 to 0.02); MORE"),
    ],
)
def test_whether_dropout_helps_is_told_in_the_direction_of_the_study(estimate, maximise, said):
    """A cost is worse: a higher value if the study minimises, and a lower one if it maximises."""
    factor = Factor("r0", "number", ("r0",), high=0.7)
    profile = Profile((level("0", NOTHING), level("0.7", NOTHING)), NOTHING, 0.0, estimate)
    rate = FactorEffect(factor, effect("r0", [level("0", NOTHING)]).importance, profile)
    found = answers(rate, ratio=False, objective=Objective("score", maximise))["whether"]
    more = "about 30 more trials might tell."
    assert (found.text, found.found) == (said.replace("MORE", more), not said.startswith("Not known"))


@pytest.mark.parametrize(
    ("names", "said"), [(["kind"], "kind: hardly matters."), (["kind", "pattern"], "pattern, kind: hardly matter.")]
)
def test_what_hardly_matters_is_told_together(names, said):
    """A factor whose share of the variance is below 2%, also at the upper end of its interval."""
    little = Importance(*[Estimate(0.005, 0.0, 0.019)] * 3)
    levels = [level("a", NOTHING, chance=0.6), level("b", Estimate(0.01, -0.1, 0.1), chance=0.4)]
    found = answers(*(replace(effect(name, levels), importance=little) for name in names))["which"]
    assert (found.text, found.found) == (said, False)


@pytest.mark.parametrize(
    ("task", "direction", "names", "expected"),
    [
        ({}, "minimize", "val", Objective("loss")),
        ({"objective": "metric"}, "minimize", None, Objective("error")),
        ({"objective": "metric", "metric": "mine:dice"}, "minimize", None, Objective("1 - dice", metric="dice")),
        ({"objective": "metric", "metric": "mine:far", "direction": "minimize"}, "minimize", None, Objective("far")),
        # Studies of other programs.
        (None, "minimize", "rmse", Objective("rmse")),
        (None, "maximize", "dice", Objective("dice", maximise=True)),
        (None, "maximize", None, Objective("objective value", maximise=True)),
        ({}, "maximize", "dice", Objective("dice", maximise=True)),
    ],
)
def test_the_objective_of_a_study_has_the_name_of_what_it_stores(task, direction, names, expected):
    """By its task if dropopt made it; dropopt minimises. Otherwise by the name that its program gave, if any."""
    study = optuna.create_study(direction=direction)
    if names is not None:
        name_metric(study, names)
    if task is not None:
        study.set_user_attr(BASE, RunConfig.parse({"task": task}).model_dump(mode="json"))
    assert objective_of(study) == expected


@pytest.mark.parametrize(
    ("objective", "better", "in_units", "as_a_share"),
    [
        (Objective("loss"), True, "the loss is 12 lower", "the loss is 12 lower"),
        (Objective("score", maximise=True), True, "score is 12 higher", "score is 12 nearer to 0"),
        (Objective("score", maximise=True), False, "score is 12 lower", "score is 12 further below 0"),
        (Objective("1 - dice", metric="dice"), True, "dice is 12 higher", "the gap between dice and 1 is 12 smaller"),
    ],
)
def test_a_change_is_told_in_the_direction_of_the_objective(objective, better, in_units, as_a_share):
    """Values that are maximised have shares only if all are below 0."""
    assert objective.change("12", better=better, ratio=False) == in_units
    assert objective.change("12", better=better, ratio=True) == as_a_share
