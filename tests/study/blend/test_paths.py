"""Draws from the Gaussian process agree with its kernel and its posterior mean."""

from __future__ import annotations

import numpy as np
import pytest
from blend_study import NAMES, random_study

from dropopt.study.blend.gather import gather
from dropopt.study.blend.kernels import Kernel, Rows
from dropopt.study.blend.paths import Path, PriorDraw

KERNELS = {
    "polynomial": Kernel(polynomial=2.0, matern=0.0, length=1.0, covariates=0.0),
    "matern": Kernel(polynomial=0.0, matern=2.0, length=0.5, covariates=1.0),
    "interaction": Kernel(polynomial=1.0, matern=1.0, length=0.5, covariates=1.0, interaction=2.0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_prior_draws_have_the_covariance_of_the_kernel(name: str) -> None:
    """The covariance of 2,000 prior draws at the rows of a table is that of the kernel, without noise.

    Differences from the first row are compared, because the level has a large variance and is common to all rows.
    """
    kernel, rng = KERNELS[name], np.random.default_rng(0)
    rows = Rows(gather(random_study(12).trials, NAMES, maximise=False))
    shape, covariates = rows.blend.shape, rows.covariates.shape[1]
    draws = np.array(
        [PriorDraw(kernel, shape, covariates, rng).at_rows(rows.blend, rows.covariates) for _ in range(2000)]
    )
    draws -= draws[:, :1]
    full = rows.covariance(kernel) - np.diag(rows.noise)
    expected = full - full[:, :1] - full[:1] + full[0, 0]
    assert draws.T @ draws / len(draws) == pytest.approx(expected, abs=0.1 * expected.max())


def test_posterior_draws_are_centred_on_the_mean() -> None:
    """The mean of 500 posterior draws, in units of the noise, is proportional to the posterior mean."""
    table = gather(random_study(40).trials, NAMES, maximise=False)
    rows, rng = Rows(table), np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), size=20)
    mean = Path(rows, KERNELS["matern"], table.score, None, None)(shares, 0)
    draws = [Path(rows, KERNELS["matern"], table.score, None, rng)(shares, 0) for _ in range(500)]
    assert np.corrcoef(np.mean(draws, axis=0), mean)[0, 1] > 0.995
