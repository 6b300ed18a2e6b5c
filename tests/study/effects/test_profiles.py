"""The levels of a factor and their costs, compared with those of functions that are known."""

import numpy as np
import pytest
from effects_problems import Problem, choice, number, study_of, true_averages, true_costs

from dropopt.study.effects.design import Design, Settings
from dropopt.study.effects.factors import Condition, Factor
from dropopt.study.effects.model import Model, fit
from dropopt.study.effects.posterior import Draws
from dropopt.study.effects.profiles import LEVELS, levels_of, profiles, uniform
from dropopt.study.effects.response import Response

#: ``block`` needs kind b, ``share`` kind a or b.
FACTORS = (
    choice("kind", 3),
    number("rate"),
    number("block", Condition(0, (1,))),
    number("share", Condition(0, (0, 1))),
)


@pytest.fixture(scope="module")
def function():
    """A function drawn from the prior of the model, and its true costs: at best and on average, for each factor."""
    design = Design(FACTORS)
    prior = design.prior(Settings(np.ones(len(FACTORS)), 1.0, (0,) * len(FACTORS)))
    coefficients = np.random.default_rng(0).normal(size=design.width) * np.sqrt(prior)
    task = Problem(FACTORS, lambda p: design.matrix(p) @ coefficients, 0.0)
    return design, coefficients, [(true_costs(task, d, 2**8), true_averages(task, d)) for d in range(len(FACTORS))]


@pytest.mark.parametrize("ratio", [False, True])
def test_costs_are_those_of_the_function(function, ratio):
    """On average over the space, and at the best of the other factors as random search finds it; none is below 0.

    The costs of a function without doubt are intervals of length 0. What turns dropout off is compared with the best
    of the others.
    """
    design, coefficients, costs = function
    points, unit = uniform(FACTORS, 2**8), 0.1
    blank = Response(ratio, np.zeros(len(points)), unit, np.ones(len(points)), np.zeros(len(points)))
    model = Model(design, points, blank, Draws(coefficients[:, None], np.ones(1)), len(points), len(points))
    found = profiles(model, {"kind": "b", "rate": 0.0})
    (again,) = profiles(model, {}, only=[2])
    assert (again.optimum, len(found)) == (found[2].optimum, len(FACTORS))

    def cost(gap):
        return np.expm1(unit * gap) if ratio else unit * gap

    for index, (profile, (best, average)) in enumerate(zip(found, costs, strict=True)):
        for name, expected in (("best", best), ("average", average)):
            estimates = [getattr(level, name) for level in profile.levels]
            assert [one.value for one in estimates] == pytest.approx(cost(expected - expected.min()), abs=0.003)
            assert all(one.low == one.value == one.high for one in estimates)
        first = int(best.argmin())
        assert [level.chance for level in profile.levels] == (np.arange(len(best)) == first).tolist()
        assert (profile.optimum and profile.optimum.value) == (profile.levels[first].value if index else None)
        off = {0: 1, 1: 0}.get(index)  # the position of what turns dropout off
        if off is not None:
            assert profile.without.value == pytest.approx(cost(best[off] - np.delete(best, off).min()), abs=0.003)
        assert (profile.without is None) == (off is None)
        assert profile.negative == 0


def test_one_level_is_the_best():
    """The probabilities that a level is the best add up to 1."""
    task = Problem(FACTORS, lambda p: p.values[1] + 0.1 * p.values[0], 0.3)
    model = fit(study_of(task, "random", 25, 0).trials, False)
    for profile in profiles(model, {}):
        assert sum(level.chance for level in profile.levels) == pytest.approx(1)
        assert max(level.chance for level in profile.levels) < 1


SIZE, BLEND = Factor("size", "number", ("size",), low=1, high=5, levels=3), Factor("blend", "blend", ("w_a", "w_b"))
RATE = Factor("lr", "number", ("lr",), low=1, high=2.0**16, log=True)
MANY = Factor("n", "number", ("n",), high=17, levels=18)  # more than are shown: it is shown as a range
EVENLY = [row / 16 for row in range(LEVELS)]


@pytest.mark.parametrize(
    ("factor", "labels", "values", "settings"),
    [
        (choice("kind", 3), ["a", "b", "c"], ["a", "b", "c"], [0, 1, 2]),
        (SIZE, ["1", "3", "5"], [1, 3, 5], [1 / 6, 1 / 2, 5 / 6]),
        (BLEND, ["w_a", "w_b", "equal shares"], ["w_a", "w_b", None], [[1, 0], [0, 1], [0.5, 0.5]]),
        (RATE, None, [2.0**row for row in range(LEVELS)], EVENLY),
        (MANY, None, [min(row * 18 // 16, 17) for row in range(LEVELS)], EVENLY),
    ],
)
def test_levels_are_spread_over_the_range(factor, labels, values, settings):
    """All choices; each level of a number of few levels, and 17 values of others; each method alone, and all equal."""
    found = levels_of(factor)
    assert found[0] == (labels or [str(int(value)) for value in values])
    assert found[1] == pytest.approx(values) if labels is None else found[1] == values
    np.testing.assert_allclose(found[2], settings)
