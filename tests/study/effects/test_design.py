"""The parts of the model: uncorrelated over the space, and the same as features and as kernels."""

import numpy as np
import pytest
from effects_problems import Problem, choice, number, true_indices

from dropopt.study.effects.design import LEVEL, Design, Kernels, Settings
from dropopt.study.effects.factors import Condition, Factor
from dropopt.study.effects.importance import importances
from dropopt.study.effects.model import Model
from dropopt.study.effects.posterior import Draws
from dropopt.study.effects.profiles import uniform
from dropopt.study.effects.response import Response

#: All kinds of factors; ``block`` needs kind b, ``share`` a or b, ``depth`` kind b and deep b, ``early`` late a or c.
FACTORS = (
    choice("kind", 3),
    number("rate"),
    Factor("size", "number", ("size",), low=1, high=5, levels=3),
    number("block", Condition(0, (1,))),
    number("share", Condition(0, (0, 1))),
    choice("deep", 2),
    number("depth", Condition(0, (1,)), Condition(5, (1,))),
    Factor("blend", "blend", ("w_a", "w_b", "w_c")),
    number("early", Condition(9, (0, 2))),
    choice("late", 3),
)


def test_parts_are_uncorrelated_over_the_space():
    """Features have mean 0 and are uncorrelated; their variance is the probability that their part is used."""
    design = Design(FACTORS)
    table = design.matrix(uniform(FACTORS, 2**14))
    moments = table.T @ table / len(table)
    used = np.concatenate([[1.0], *(np.full(part.stop - part.start, part.used) for part in design.parts)])
    assert np.diag(moments) == pytest.approx(used, abs=0.15)
    np.fill_diagonal(moments, 0.0)
    assert np.abs(moments).max() < 0.15
    assert np.sqrt((moments**2).mean()) < 0.01


def test_impossible_interactions_are_left_out():
    """A factor that is used with one value of its parent only cannot interact with it."""
    pairs = {tuple(FACTORS[d].name for d in pair) for pair in Design(FACTORS).pairs}
    assert ("kind", "block") not in pairs
    assert {("kind", "share"), ("rate", "block"), ("block", "share")} <= pairs


def test_kernels_are_products_of_features():
    """The covariance that the settings are sampled with is that of the features."""
    points = uniform(FACTORS, 32)
    design, weight = Design(FACTORS), np.linspace(0.5, 1.0, 32)
    rng = np.random.default_rng(0)
    kernels = Kernels(design, points, weight)
    for _ in range(3):
        count = len(FACTORS)
        settings = Settings(np.exp(rng.normal(size=count)), 0.4, tuple(rng.integers(0, 3, size=count).tolist()))
        table = design.matrix(points)
        expected = (table * design.prior(settings)) @ table.T + np.diag(1 / weight)
        assert kernels.covariance(settings) == pytest.approx(expected)
        index = int(rng.integers(count))
        assert kernels.along(settings, index)(settings.size[index]) == pytest.approx(expected)
    assert design.prior(settings)[0] == LEVEL


def test_importances_are_the_sobol_indices_of_the_function():
    """Drawn at random, a function of the model has the indices that pairs of random configurations give.

    Conditions are included: a choice has a part in what it switches on and off. With the noise of trainings, the share
    is smaller by the share of the variance that is not noise, here one half.
    """
    blocks = number("block", Condition(0, (1,))), number("share", Condition(0, (0, 1)))
    depths = choice("deep", 2), number("depth", Condition(0, (1,)), Condition(4, (1,)))
    factors = (choice("kind", 3), number("rate"), *blocks, *depths)
    design = Design(factors)
    function = np.random.default_rng(0).normal(size=design.width)
    function[0] = 0.0
    function[design.parts[len(factors)].start :] *= 0.4  # of interactions
    points = uniform(factors, 2**14)
    height = design.matrix(points) @ function
    noise = float(height.std())  # as much of the variance as the function
    blank = Response(False, height, 1.0, np.ones(len(points)), np.zeros(len(points)))
    model = Model(design, points, blank, Draws(function[:, None], np.array([noise])), len(points), len(points))
    first, total = true_indices(Problem(factors, lambda p: design.matrix(p) @ function, noise), 2**14)
    found = importances(model)
    assert [one.first.value for one in found] == pytest.approx(first, abs=0.02)
    assert [one.total.value for one in found] == pytest.approx(total, abs=0.02)
    assert [one.noisy.value for one in found] == pytest.approx(total / 2, abs=0.02)
    assert min(first.max(), *total) > 0.05


def test_a_function_far_below_the_noise_is_flat():
    """Its variance counts as 1e-9 of that of the noise if it is smaller: rounding has no importance."""
    design, noise = Design((choice("kind", 2),)), 2.0
    coefficients = np.array([[1.0], [noise * np.sqrt(1e-10)]])
    blank = Response(False, np.zeros(2), 1.0, np.ones(2), np.zeros(2))
    points = uniform(design.factors, 2)
    (found,) = importances(Model(design, points, blank, Draws(coefficients, np.array([noise])), 2, 2))
    assert (found.first.value, found.total.value) == pytest.approx((0.1, 0.1))
