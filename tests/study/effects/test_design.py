"""The parts of the model: uncorrelated over the space, and the same as features and as kernels."""

import numpy as np
import pytest
from effects_problems import choice, number

from dropopt.study.effects.design import LEVEL, Design, Kernels, Settings
from dropopt.study.effects.factors import Condition, Factor
from dropopt.study.effects.profiles import uniform

#: All kinds of factors; ``block`` needs kind b, ``share`` kind a or b, ``depth`` kind b and deep b.
FACTORS = (
    choice("kind", 3),
    number("rate"),
    Factor("size", "number", ("size",), low=1, high=5, levels=3),
    number("block", Condition(0, (1,))),
    number("share", Condition(0, (0, 1))),
    choice("deep", 2),
    number("depth", Condition(0, (1,)), Condition(5, (1,))),
    Factor("blend", "blend", ("w_a", "w_b", "w_c")),
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
