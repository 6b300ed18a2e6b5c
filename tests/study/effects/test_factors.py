"""Factors: what was varied, and the conditions that are inferred from the trials."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from dropopt.config import STAGES
from dropopt.study.effects.factors import Condition, Factor, factors_of, points_of


@pytest.fixture(scope="module")
def trials():
    """A nested space: ``block`` needs kind b or c, ``depth`` and ``form`` need kind c with deep True."""

    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        trial.suggest_float("lr", 0.01, 1.0, log=True)
        trial.suggest_int("size", 1, 5, step=2)
        if kind != "a":
            trial.suggest_float("block", 0.0, 2.0)
        if kind == "c" and trial.suggest_categorical("deep", [True, False]):
            trial.suggest_float("depth", 0.0, 1.0)
            trial.suggest_categorical("form", ["x", "y"])
        for name in ("w_adaptive", "w_pfid"):
            trial.suggest_float(name, 0.0, 1.0)
        trial.suggest_categorical("constant", [3])
        trial.suggest_categorical("file", [f"f{i}" for i in range(40)])
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=60)
    return study.trials


def test_conditions_are_found(trials):
    """A condition holds with the factor and not without it; those of parents are included."""
    factors = factors_of(trials)
    names = [factor.name for factor in factors]
    assert sorted(names) == ["blend", "block", "deep", "depth", "form", "kind", "lr", "size"]
    conditions = {factor.name: factor.conditions for factor in factors}
    kind, deep = names.index("kind"), names.index("deep")
    assert conditions["block"] == (Condition(kind, (1, 2)),)
    assert conditions["deep"] == (Condition(kind, (2,)),)
    assert set(conditions["depth"]) == {Condition(kind, (2,)), Condition(deep, (0,))}
    assert conditions["form"] == conditions["depth"]
    assert all(not conditions[name] for name in ("kind", "lr", "size", "blend"))


def test_positions_and_values(trials):
    """Numbers have positions in [0, 1], by logarithm or by level; a blend has shares."""
    factors = {factor.name: factor for factor in factors_of(trials)}
    assert factors["lr"].position(0.1) == pytest.approx(0.5)
    assert factors["lr"].value(0.5) == pytest.approx(0.1)
    assert [factors["size"].position(n) for n in (1, 3, 5)] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert [factors["size"].value(p) for p in (0.0, 0.4, 1.0)] == [1, 3, 5]
    assert factors["blend"].names == ("w_adaptive", "w_pfid")
    ordered = tuple(factors.values())
    points = points_of(trials, ordered)
    assert points.values[list(factors).index("blend")].sum(axis=1) == pytest.approx(1)
    used = points.active[:, list(factors).index("block")]
    assert used.tolist() == ["block" in trial.params for trial in trials]


def test_a_parameter_without_a_condition_is_used_everywhere():
    """A parameter that was added in the middle of a study has no condition; changed ranges are united."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    study.optimize(lambda trial: trial.suggest_float("x", -1, 0.5) + trial.suggest_float("new", 0, 1), n_trials=3)
    x, new = factors_of(study.trials)
    assert (x.low, x.high) == (-1, 1)
    assert new.conditions == ()


@pytest.mark.parametrize(
    ("first", "other", "united"),
    [
        ((["a", "b"],), (["b", "c"],), Factor("x", "choice", ("x",), choices=("a", "b", "c"))),
        # Levels with different steps are not those of one range.
        ((1, 5, False, 2), (0, 3, False, 1), Factor("x", "number", ("x",), low=0.0, high=5.0)),
        ((1, 4, False, 1), (1, 4, False, 1), Factor("x", "number", ("x",), low=1.0, high=4.0, levels=4)),
        ((0.1, 1, True), (0.5, 2, True), Factor("x", "number", ("x",), low=0.1, high=2.0, log=True)),
        ((0.1, 1, True), (0.1, 2), Factor("x", "number", ("x",), low=0.1, high=2.0)),
    ],
)
def test_ranges_that_changed_are_united(first, other, united):
    """All choices in their order; of numbers the range that contains both, logarithmic if both are."""
    trials = []
    for arguments in (first, other):
        kind = FloatDistribution(*arguments) if len(arguments) > 1 else CategoricalDistribution(*arguments)
        value = kind.low if len(arguments) > 1 else kind.choices[0]
        trials.append(create_trial(params={"x": value}, distributions={"x": kind}, value=0.0))
    assert factors_of(trials) == (united,)


def test_each_stage_has_a_blend():
    """It has the name of the stage."""
    names = {stage: (f"w_adaptive_{stage}", f"w_pfid_{stage}") for stage in STAGES}
    kinds = dict.fromkeys(sum(names.values(), ()), FloatDistribution(0, 1))
    found = factors_of([create_trial(params=dict.fromkeys(kinds, 0.5), distributions=kinds, value=0.0)])
    assert {factor.name: factor.names for factor in found} == {f"blend, {stage}": own for stage, own in names.items()}


@pytest.mark.parametrize("first", [0, 1])
def test_a_parameter_of_two_kinds_is_what_it_is_in_the_first_trial(first):
    """Trials with a word in place of a number, or the reverse, do not use the factor; a word is no weight."""
    numbers = {"x": FloatDistribution(0, 1), "w_a": FloatDistribution(0, 1), "w_b": FloatDistribution(0, 1)}
    words = {name: CategoricalDistribution(["low", "high", None]) for name in numbers}
    trials = [
        create_trial(params=dict.fromkeys(numbers, value), distributions=distributions, value=0.0)
        for value, distributions in ((0.25, numbers), ("low", words), (0.5, numbers), (None, words))
    ][first:]
    factors = factors_of(trials)
    assert {factor.name: factor.kind for factor in factors} == {"x": ["number", "choice"][first], "blend": "blend"}
    points = points_of(trials, factors)
    assert points.active.tolist() == [[(row + first) % 2 == first, (row + first) % 2 == 0] for row in range(4 - first)]
    assert np.isfinite(np.column_stack(points.values)).all()
