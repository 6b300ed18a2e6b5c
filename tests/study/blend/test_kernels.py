"""Kernels, posteriors and evidence against loops, scikit-learn's kernels and scipy's multivariate t distribution."""

import math
from dataclasses import replace

import numpy as np
import pytest
from random_evidence import table_of
from scipy.special import softmax
from scipy.stats import kurtosis, multivariate_t
from sklearn.gaussian_process.kernels import RBF, Matern

from dropopt.study.blend import threads
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.kernels import Kernel, Rows
from dropopt.study.blend.mixture import scheffe
from dropopt.study.blend.paths import Path, PriorDraw
from dropopt.study.blend.surrogate import Surrogate, row_limit

PARTS = {
    "polynomial": Kernel(polynomial=2.0, matern=0.0, length=1.0, covariates=0.0),
    "matern": Kernel(polynomial=0.0, matern=3.0, length=0.5, covariates=0.0),
    "covariates": Kernel(polynomial=0.0, matern=0.0, length=0.5, covariates=1.5),
    "interaction": Kernel(polynomial=0.0, matern=0.0, length=0.25, covariates=0.0, interaction=2.5),
    "all": Kernel(polynomial=0.7, matern=1.1, length=0.5, covariates=1.3, interaction=0.9),
}


def between(kernel: Kernel, one: np.ndarray, c1: np.ndarray, other: np.ndarray, c2: np.ndarray) -> float:
    """The covariance of two blends (S, M) with covariates (D,), from its definition."""
    stages, methods = one.shape

    def pooled(single: object) -> float:
        table = [[single(a, b) for b in other] for a in one]  # type: ignore[operator]
        return 0.75 * float(np.mean(table)) + 0.25 * float(np.trace(table)) / stages**2 if stages > 1 else table[0][0]

    def polynomial(a: np.ndarray, b: np.ndarray) -> float:
        (linear, pairs), (linear_b, pairs_b) = scheffe(a), scheffe(b)
        return float(linear @ linear_b) / (2 * methods) + float(pairs @ pairs_b) / (methods * (methods - 1))

    def rough(a: np.ndarray, b: np.ndarray) -> float:
        return float(Matern(kernel.length, nu=2.5)(a[None], b[None])[0, 0])

    added = float(np.mean([RBF(1.5)([[x]], [[y]])[0, 0] for x, y in zip(c1, c2, strict=True)])) if len(c1) else 0.0
    total = 10 + kernel.polynomial * pooled(polynomial) + kernel.matern * pooled(rough)
    return total + kernel.covariates * added + kernel.interaction * pooled(rough) * added


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("name", PARTS)
def test_covariance_is_its_definition(name, stages):
    """The covariance of rows is that of pairs by definition, plus the noise divided by the weight of a row."""
    kernel, table = PARTS[name], table_of(stages=stages)
    rows, c = Rows(table), table.standardised
    pairs = list(zip(table.blend, c, strict=True))
    expected = [[between(kernel, *one, *other) for other in pairs] for one in pairs]
    assert rows.covariance(kernel) == pytest.approx(np.array(expected) + np.diag(1 / table.weight))
    assert (len(rows), rows.amount) == (9, pytest.approx(6 + 0.75))


@pytest.mark.parametrize("columns", [0, 2])
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("name", PARTS)
def test_parts_by_stage_sum_to_the_covariance(name, stages, columns):
    """Summed over stages, the covariance of a candidate is the whole, without the level and the covariates alone."""
    kernel, table = PARTS[name], table_of(stages=stages, columns=columns)
    rows, rng = Rows(table), np.random.default_rng(1)
    blend, c = rng.dirichlet(np.ones(3), size=(4, stages)), rng.normal(size=columns)
    similarity = rows.similarity(c)
    total = sum(rows.covariance_with(kernel, blend[:, s], s, similarity) for s in range(stages))
    alone = replace(kernel, covariates=0.0)
    expected = [
        [between(alone, one, c, row, other) - 10 for row, other in zip(table.blend, table.standardised, strict=True)]
        for one in blend
    ]
    assert total == pytest.approx(np.array(expected))


@pytest.mark.parametrize("stages", [1, 2])
def test_the_mean_is_that_of_regression(stages):
    """The posterior mean is k G^-1 y, with covariates at their means unless given."""
    table = table_of(stages=stages)
    rows, kernel = Rows(table), PARTS["all"]
    weights = np.linalg.solve(rows.covariance(kernel), table.score)
    shares = np.random.default_rng(1).dirichlet(np.ones(3), size=5)
    for given, c in ((None, np.zeros(2)), (np.array([0.5, -1.0]),) * 2):
        path = Path(rows, kernel, table.score, given, None)
        k = rows.covariance_with(kernel, shares, stages - 1, rows.similarity(c))
        assert path(shares, stages - 1) == pytest.approx(k @ weights)


@pytest.mark.parametrize("stages", [1, 2])
def test_draws_have_the_moments_of_the_posterior(stages):
    """Mean and covariance of 1,000 draws are those of a Gaussian process with an unknown noise variance.

    In units of sigma, a draw is m / sigma + TEMPER * N(0, K - k G^-1 k'), where m is the posterior mean for sigma = 1
    and 1 / sigma^2 has a gamma distribution.
    """
    table, kernel, rng = table_of(stages=stages), PARTS["all"], np.random.default_rng(0)
    rows, stage, c = Rows(table), stages - 1, np.array([0.5, -1.0])
    shares = np.random.default_rng(1).dirichlet(np.ones(3), size=3)
    draws = np.array([Path(rows, kernel, table.score, c, rng)(shares, stage) for _ in range(1000)])

    g = rows.covariance(kernel)
    k = rows.covariance_with(kernel, shares, stage, rows.similarity(c))
    # The candidates' own covariance at this stage: (1 - f) / S^2 + f / S^2 of that of blends with this stage alone.
    part = replace(kernel, covariates=0.0)
    own = np.array([[between(part, one[None], c, other[None], c) - 10 for other in shares] for one in shares])
    own /= stages**2
    shape = 2.0 + rows.amount / 2
    scale = 0.6 + float(table.score @ np.linalg.solve(g, table.score)) / 2
    first = math.exp(math.lgamma(shape + 0.5) - math.lgamma(shape)) / math.sqrt(scale)  # E[1 / sigma]
    mean = k @ np.linalg.solve(g, table.score)
    covariance = 0.25 * (own - k @ np.linalg.solve(g, k.T)) + (shape / scale - first**2) * np.outer(mean, mean)
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(axis=0) - mean * first) < 4 * deviation / math.sqrt(len(draws))).all()
    assert (np.abs(np.cov(draws.T) - covariance) < 0.12 * np.outer(deviation, deviation)).all()


def test_draws_pass_through_rows_of_great_weight():
    """Such rows have almost no noise: differences between them are those of their outcomes, up to the unit sigma."""
    rng = np.random.default_rng(0)
    table = table_of(columns=0)
    rows = Rows(replace(table, weight=np.full(len(table), 1e8)))
    shares, score = table.blend[:, 0], table.score - table.score[0]
    for _ in range(5):
        path = Path(rows, PARTS["matern"], table.score, None, rng)
        drawn = path(shares, 0) - path(shares[:1], 0)
        assert drawn / drawn[1] == pytest.approx(score / score[1], abs=0.01)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "all"])
def test_prior_draws_by_stage(name):
    """The covariance of 1,000 prior draws between rows with two stages is that of the kernel, level included."""
    table, kernel, rng = table_of(4, stages=2), PARTS[name], np.random.default_rng(0)
    rows = Rows(table)
    draws = np.array(
        [PriorDraw(kernel, rows.blend.shape, 2, rng).at_rows(rows.blend, rows.covariates) for _ in range(1000)]
    )
    expected = rows.covariance(kernel) - np.diag(rows.noise)
    assert np.cov(draws.T) == pytest.approx(expected, rel=0.1)
    differences = draws - draws[:, :1]  # the level, 10, is common to all rows
    smaller = expected - expected[:, :1] - expected[:1] + expected[0, 0]
    assert np.cov(differences.T) == pytest.approx(smaller, abs=0.1 * smaller.max())
    assert abs(draws.mean()) < 0.25
    # Many independent features make a Gaussian. Features that shared a length would have heavy tails.
    assert np.abs(kurtosis(differences[:, 1:])).max() < 0.45


def log_prior(kernel: Kernel) -> float:
    """Of the signal, up to a constant: it is lognormal."""
    return -0.5 * (math.log(kernel.signal / 3.0) / 1.5) ** 2


def log_evidence(table: Evidence, kernel: Kernel, target: np.ndarray) -> float:
    """The marginal likelihood of N(0, sigma^2 G), sigma^2 ~ InverseGamma(2, 0.6), by scipy, plus the signal's prior."""
    shape = Rows(table).covariance(kernel) * 0.6 / 2.0
    return float(multivariate_t(np.zeros(len(table)), shape, df=4.0).logpdf(target)) + log_prior(kernel)


def log_slope(score: np.ndarray, value: np.ndarray) -> float:
    """The sum over rows of log(dz/dv), by differences between the ranks around each row."""
    n, reach = len(score), max(1, round(math.sqrt(len(score)) / 2))
    z, v = sorted(score), sorted(value)
    total = 0.0
    for i in range(n):
        low, high = max(i - reach, 0), min(i + reach, n - 1)
        total += math.log(z[high] - z[low] + 0.01) - math.log(v[high] - v[low] + 0.01)
    return total


@pytest.mark.parametrize("count", [9, 40])
def test_evidence_is_that_of_scipy(count):
    """Up to one constant, the evidence is scipy's marginal likelihood; scores are on the scale of values."""
    table = table_of(count, weighted=False)
    model = Surrogate(table)
    kernels = [Kernel(1.0, 0.0, 1.0), Kernel(0.0, 4.0, 0.25), PARTS["all"], Kernel(12.0, 12.0, 0.5, 6.0)]
    found = np.array([model.log_evidence(kernel) for kernel in kernels])
    expected = np.array([[log_evidence(table, k, t) for t in (table.score, table.value)] for k in kernels])
    expected[:, 0] += log_slope(table.score, table.value)
    assert found - found[0, 1] == pytest.approx(expected - expected[0, 1])


def test_weighted_rows_count_by_weight():
    """A row of weight 1/4 has four times the noise and counts as a quarter of a row."""
    table, kernel = table_of(), PARTS["all"]
    g, n = Rows(table).covariance(kernel), 6.75
    misfit = float(table.value @ np.linalg.solve(g, table.value))
    expected = -0.5 * np.linalg.slogdet(g)[1] - (2 + n / 2) * math.log(0.6 + misfit / 2)
    assert Surrogate(table).log_evidence(kernel)[1] == pytest.approx(expected + log_prior(kernel), abs=1e-9)


@pytest.mark.parametrize("columns", [0, 2])
def test_the_competition_by_brute_force(columns):
    """Each shape and scale has its best variance, the three best an interaction, and weights are Bayes' rule."""
    table = table_of(30, columns=columns)
    if columns:
        score = table.score + 2 * table.standardised[:, 0]
        table = replace(table, score=score, value=score**3)
    model = Surrogate(table)
    base = [(1.0, 0.0, 1.0), (0.5, 0.5, 0.5), (0.0, 1.0, 1.0), (0.0, 1.0, 0.5), (0.0, 1.0, 0.25)]
    variances = {c: model.log_evidence(Kernel(2.0, 2.0, 0.5, c)).max() for c in (0.0, 1.0, 6.0)}
    amount = max(variances, key=lambda c: variances[c]) if columns else 0.0
    assert (amount > 0) is (columns > 0)
    expected = []
    for p, m, length in base:
        for scale in (0, 1):
            kernels = [Kernel(p * s, m * s, length, amount) for s in (0.7, 4.0, 24.0)]
            best = max(kernels, key=lambda k: model.log_evidence(k)[scale])
            expected.append((best, scale, model.log_evidence(best)[scale]))
    if columns:
        for kernel, scale, _ in sorted(expected, key=lambda one: -one[2])[:3]:
            for ratio in (0.7, 4.0):
                mixed = replace(kernel, interaction=ratio * (kernel.polynomial + kernel.matern))
                expected.append((mixed, scale, model.log_evidence(mixed)[scale] - 3.0))
    assert [(c.kernel, c.scale) for c in model.candidates] == [one[:2] for one in expected]
    logs = np.array([one[2] for one in expected])
    assert [c.log_evidence for c in model.candidates] == pytest.approx(logs)
    assert model.weights == pytest.approx(softmax(logs))


def test_the_mean_is_averaged_over_candidates():
    """The posterior mean is the weighted sum over kernels and scales, without those of negligible weight."""
    table = table_of(30)
    model, shares = Surrogate(table), np.random.default_rng(1).dirichlet(np.ones(3), size=4)
    rows, targets = Rows(table), (table.score, table.value)
    for c in (None, np.array([1.0, -0.5])):
        expected = sum(
            w * Path(rows, one.kernel, targets[one.scale], c, None)(shares, 0)
            for one, w in zip(model.candidates, model.weights, strict=True)
            if w > 0.01
        )
        assert model.mean(c)(shares, 0) == pytest.approx(expected)
    assert (model.weights < 0.01).any()


def test_covariates_change_the_function():
    """If the best blend depends on a covariate, so do the mean and the draws, with the sign of the covariate."""
    table = table_of(60)
    score = 4 * table.standardised[:, 0] * (table.blend[:, 0, 0] - table.blend[:, 0, 1])
    model = Surrogate(replace(table, score=score, value=score))
    corners = np.eye(3)
    for sign in (-1.0, 1.0):
        c = np.array([sign, 0.0])
        mean, (path, _) = model.mean(c)(corners, 0), model.draw(np.random.default_rng(0), c)
        drawn = path(corners, 0)
        assert sign * (mean[0] - mean[1]) > 1
        assert sign * (drawn[0] - drawn[1]) > 0.3


def test_weights_of_a_long_table():
    """The weights are normalised without overflow or underflow, however small the likelihoods are."""
    model = Surrogate(table_of(400))
    assert max(candidate.log_evidence for candidate in model.candidates) < -400
    assert model.weights.sum() == pytest.approx(1)


def test_ties_keep_the_order_of_rows():
    """Of 60 rows with three different scores, the best are the first in the table."""
    table = replace(table_of(60), score=np.arange(60) % 3.0)
    order = sorted(range(60), key=lambda i: -table.score[i])
    assert (Surrogate(table).best(0, 30) == table.blend[order[:30], 0]).all()


def test_draws_choose_kernels_by_weight(monkeypatch):
    """A draw is a path of the chosen kernel on its scale, with the generator's next numbers."""
    table = table_of(30)
    model, shares = Surrogate(table), np.random.default_rng(1).dirichlet(np.ones(3), size=4)
    rows, targets, c = Rows(table), (table.score, table.value), np.array([1.0, -0.5])
    for seed in range(6):
        path, name = model.draw(np.random.default_rng(seed), c)
        rng = np.random.default_rng(seed)
        chosen = model.candidates[int(rng.choice(len(model.candidates), p=model.weights))]
        assert name == chosen.kernel.name
        expected = Path(rows, chosen.kernel, targets[chosen.scale], c, rng)(shares, 0)
        assert path(shares, 0) == pytest.approx(expected)
    limits = []
    monkeypatch.setattr(threads._controller(), "limit", lambda **given: limits.append(given) or np.errstate())
    model.draw(np.random.default_rng(0), c)
    assert limits == [{"limits": 1, "user_api": "blas"}]


def test_row_limit():
    """The limit falls with the fourth root of the number of stages."""
    assert [row_limit(stages) for stages in (1, 2, 16)] == [100, 84, 50]
