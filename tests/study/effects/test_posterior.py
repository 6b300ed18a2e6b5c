"""Draws from the posterior, compared with the posterior itself, computed on a grid or in closed form."""

import itertools
import math

import numpy as np
import pytest
from effects_problems import choice, number
from scipy.stats import multivariate_t

from dropopt.study.effects.basis import ROUGHNESS
from dropopt.study.effects.design import Design, Kernels, Settings
from dropopt.study.effects.posterior import Chain, coefficients
from dropopt.study.effects.profiles import uniform

DESIGN = Design((choice("kind", 2), number("rate")))
POINTS = uniform(DESIGN.factors, 8)
WEIGHT = np.array([1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0])


def test_the_settings_are_drawn_from_their_posterior():
    """Their means over a long chain are those of a grid: lognormal priors, and a t distribution of the responses."""
    rng = np.random.default_rng(0)
    value = POINTS.values[0] + np.sin(5 * POINTS.values[1]) + 0.2 * rng.normal(size=8)
    value = (value - value.mean()) / value.std()
    table = DESIGN.matrix(POINTS)
    sizes, together = np.log(1.5) + np.linspace(-9, 9, 13), np.log(0.3) + np.linspace(-5, 5, 5)
    rows, logs = [], []
    for first, second, strength, rough in itertools.product(sizes, sizes, together, range(len(ROUGHNESS))):
        prior = DESIGN.prior(Settings(np.exp([first, second]), float(np.exp(strength)), (0, rough)))
        scale = (table * prior) @ table.T + np.diag(1 / WEIGHT)
        far = (np.array([first, second, strength]) - np.log([1.5, 1.5, 0.3])) / [2.5, 2.5, 1.5]
        rows.append([first, second, strength, *(rough == np.arange(3))])
        logs.append(multivariate_t.logpdf(value, shape=0.1 * scale, df=2) - 0.5 * far @ far)
    chance = np.exp(np.array(logs) - max(logs))
    expected = chance @ np.array(rows) / chance.sum()
    chain = Chain(Kernels(DESIGN, POINTS, WEIGHT), value, 8.0, np.random.default_rng(1))
    drawn = []
    for _ in range(400):
        chain.sweep()
        settings = chain.settings
        drawn.append([*np.log(settings.size), np.log(settings.together), *(settings.rough[1] == np.arange(3))])
    found = np.mean(drawn, axis=0)
    assert found[:3] == pytest.approx(expected[:3], abs=0.25)
    assert found[3:] == pytest.approx(expected[3:], abs=0.08)
    assert np.isfinite(chain.log_density)


@pytest.mark.parametrize(("centre", "spread"), [(3.0, 0.02), (-40.0, 4.0)])
def test_a_slice_keeps_a_density(centre, spread):
    """Whether it is narrow or wide, and near its start or far."""
    chain = Chain(Kernels(DESIGN, POINTS, WEIGHT), np.zeros(8), 8.0, np.random.default_rng(0))
    found = [0.0]
    for _ in range(1500):
        found.append(chain._slice(found[-1], lambda x: -0.5 * ((x - centre) / spread) ** 2))
    kept = np.array(found[200:])
    assert kept.mean() == pytest.approx(centre, abs=0.1 * spread)
    assert kept.std() == pytest.approx(spread, rel=0.1)
    assert np.corrcoef(kept[1:], kept[:-1])[0, 1] < 0.3


def test_coefficients_are_drawn_from_their_posterior():
    """Mean and covariance are those of Bayesian linear regression, and the noise has an inverse gamma distribution."""
    rng = np.random.default_rng(0)
    value, table = rng.normal(size=8), DESIGN.matrix(POINTS)
    settings = Settings(np.array([2.0, 0.5]), 0.4, (0, 1))
    draws = [coefficients(DESIGN, POINTS, value, WEIGHT, settings, rng) for _ in range(1000)]
    found, noise = (
        np.concatenate([getattr(one, name) for one in draws], axis=-1) for name in ("coefficients", "noise")
    )
    covariance = np.linalg.inv(table.T @ np.diag(WEIGHT) @ table + np.diag(1 / DESIGN.prior(settings)))
    mean = covariance @ table.T @ (WEIGHT * value)
    misfit = value @ (WEIGHT * value) - mean @ np.linalg.solve(covariance, mean)
    variance = (0.1 + misfit / 2) / (1.0 + 8 / 2 - 1)  # of the noise, on average
    assert np.mean(noise**2) == pytest.approx(variance, rel=0.05)
    assert found.mean(axis=1) == pytest.approx(mean, abs=0.005)
    assert np.cov(found) == pytest.approx(variance * covariance, abs=0.001)


def test_a_covariance_that_is_none_has_no_evidence():
    """Rounding can make it so if a size is huge: such a setting is never drawn."""
    chain = Chain(Kernels(DESIGN, POINTS, WEIGHT), np.ones(8), 8.0, np.random.default_rng(0))
    assert chain._evidence(-np.eye(8)) == -math.inf
