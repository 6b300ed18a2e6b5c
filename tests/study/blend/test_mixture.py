"""Shares, Scheffe's terms and covariates against moments, loops and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from scipy.stats import dirichlet
from sklearn.preprocessing import StandardScaler

from dropopt.study.blend.covariates import CLIP, MAX_CATEGORIES, Standardiser, cells_of, covariates_of
from dropopt.study.blend.evidence import Evidence, thinned
from dropopt.study.blend.mixture import blends_of, normalised, scheffe


def test_shares_by_hand():
    """Weights are divided by their sum; without any, shares are equal."""
    weights = np.array([[2.0, 6.0], [0.0, 0.0], [0.0, 3.0]])
    assert normalised(weights).tolist() == [[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]
    assert normalised(weights[0]).tolist() == [0.25, 0.75]


def test_blends_by_hand():
    """An absent name has the share 0; a stage with zero, negative or infinite weights is NaN, and only that one."""
    names = (("a", "b"), ("c", "d"))
    good = {"c": 3.0, "d": 1.0, "x": "other"}
    weights = [(1.0, 1.0), (0.0, 0.0), (-1.0, 2.0), (math.inf, 1.0), (math.nan, 1.0)]
    rows = [{"a": a, "b": b, **good} for a, b in weights] + [{"b": 2.0, **good}]
    found = blends_of(rows, names)
    assert found.shape == (6, 2, 2)
    np.testing.assert_array_equal(found[:, 0], [[0.5, 0.5], *[[math.nan] * 2] * 4, [0.0, 1.0]])
    assert (found[:, 1] == [0.75, 0.25]).all()
    np.testing.assert_array_equal(blends_of(rows[:1], names), found[:1])
    assert blends_of([], names).shape == (0, 2, 2)


@pytest.mark.parametrize("methods", [2, 3, 5])
def test_terms_have_unit_moments(methods):
    """Each term is its product of shares, with the exact mean and deviation of a flat Dirichlet distribution."""
    shares = np.random.default_rng(0).dirichlet(np.ones(methods), size=(7, 2))
    linear, pairs = scheffe(shares)
    flat = dirichlet(np.ones(methods))
    assert linear == pytest.approx((shares - flat.mean()) / np.sqrt(flat.var()))

    def moment(power):  # E[w_i^k w_j^k] of a flat Dirichlet distribution
        return math.factorial(power) ** 2 * math.factorial(methods - 1) / math.factorial(methods - 1 + 2 * power)

    products = [shares[..., i] * shares[..., j] for i, j in itertools.combinations(range(methods), 2)]
    expected = (np.stack(products, axis=-1) - moment(1)) / math.sqrt(moment(2) - moment(1) ** 2)
    assert pairs == pytest.approx(expected)


def test_columns_by_hand():
    """Logarithms, integers, indicators of the choices that occur, and NaN where a parameter was not suggested."""
    log, plain = FloatDistribution(1e-4, 1, log=True), FloatDistribution(-1, 1)
    kind, size = CategoricalDistribution(["p", "q", None]), IntDistribution(1, 9, log=True)
    unused = CategoricalDistribution(list(range(MAX_CATEGORIES + 1)))
    full = CategoricalDistribution([f"c{i:02}" for i in range(MAX_CATEGORIES)])
    rows = [
        ({"lr": 0.01, "kind": "p", "w_a": 0.5}, {"lr": log, "kind": kind, "w_a": plain}),
        ({"lr": 1.0, "kind": None, "size": 3}, {"lr": log, "kind": kind, "size": size}),
        ({"z": -0.5}, {"z": plain}),
    ]
    trials = [create_trial(value=0.0, params=params, distributions=found) for params, found in rows]
    columns, table = covariates_of(trials, {"w_a"})
    assert columns == ("kind='p'", "kind=None", "lr", "size", "z")
    nan = math.nan
    expected = [[1, 0, math.log(0.01), nan, nan], [0, 1, 0, math.log(3), nan], [nan, nan, nan, nan, -0.5]]
    np.testing.assert_array_equal(table, np.array(expected))
    many, most = (
        [create_trial(value=0.0, params={"id": choice}, distributions={"id": ids}) for choice in ids.choices]
        for ids in (unused, full)
    )
    assert covariates_of(many, set())[0] == ()
    columns, table = covariates_of(most, set())
    assert columns == tuple(f"id={name!r}" for name in full.choices)
    assert (table == np.eye(MAX_CATEGORIES)).all()
    assert covariates_of([], set())[1].shape == (0, 0)
    assert cells_of("lr", 0.01, log) == {"lr": math.log(0.01)}
    assert cells_of("z", -0.5, plain) == {"z": -0.5}
    assert cells_of("kind", None, kind) == {"kind='p'": 0.0, "kind='q'": 0.0, "kind=None": 1.0}


def test_standardisation_is_that_of_scikit_learn():
    """Means and deviations ignore NaN; NaN becomes 0, constant columns are left out, and outliers are clipped."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(60, 4)) * [1, 100, 1e-3, 0] + [0, 5, 1e3, 7]
    table[rng.uniform(size=table.shape) < 0.3] = math.nan
    table[0, 0] = 1e3
    reference = StandardScaler().fit(table)
    found = Standardiser.fit(table)
    assert found.mean == pytest.approx(reference.mean_)
    assert found.deviation == pytest.approx(np.sqrt(reference.var_), abs=1e-12)
    assert found.varies.tolist() == [True, True, True, False]
    expected = np.clip(np.nan_to_num(reference.transform(table)), -CLIP, CLIP)[:, :3]
    assert found.transform(table) == pytest.approx(expected)
    assert np.abs(found.transform(table)).max() == CLIP == 4
    # A column varies if its deviation is more than a billionth of 1 + |mean|.
    tiny = np.array([[0.0, 0.0, 1e6], [1e-9, 4e-9, 1e6 + 1e-3]])
    assert Standardiser.fit(tiny).varies.tolist() == [False, True, False]
    assert Standardiser.fit(np.full((2, 1), math.nan)).transform(np.zeros((3, 1))).shape == (3, 0)


def evidence(**changed):
    """A table of six rows, of which several are equal in their first columns."""
    blend = np.array([[0.2, 0.8], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.2, 0.8], [0.2, 0.8]])[:, None]
    parts = {
        "names": (("a", "b"),),
        "blend": blend,
        "score": np.array([0.5, -1.0, 0.5, 2.0, 0.5, 0.5]),
        "value": np.arange(6.0),
        "covariates": np.array([[1.0, 5], [2, 5], [math.nan, 5], [4, 5], [0, 5], [0, 5]]),
        "columns": ("p", "q"),
        "weight": np.array([1.0, 1, 1, 1, 0.5, 1]),
        "number": np.arange(6),
        "trials": 6,
    }
    return Evidence(**parts | changed)


def test_rows_are_sorted_by_content():
    """The order is by score, then weight, blend and covariates, NaN last; any permutation gives the same table."""
    table = evidence()
    first = np.nan_to_num(table.covariates[:, 0], nan=math.inf)
    rows = zip(table.score, table.weight, *table.blend[:, 0, ::-1].T, first, range(6), strict=True)
    assert table.sorted().number.tolist() == [row[-1] for row in sorted(rows)] == [1, 4, 5, 0, 2, 3]
    for seed in range(5):
        mixed = table.take(np.random.default_rng(seed).permutation(6)).sorted()
        for part in ("blend", "score", "value", "covariates", "weight", "number"):
            np.testing.assert_array_equal(getattr(mixed, part), getattr(table.sorted(), part))
    assert table.take(np.array([3, 1])).sorted().number.tolist() == [1, 3]
    one = table.take(np.array([3]))
    assert one.sorted() is one


def test_standardised_covariates():
    """One row is standardised as the table is: an absent column is at the mean, an unknown one is ignored."""
    table = evidence()
    present = np.array([1.0, 2, 4, 0, 0])
    mean, deviation = present.mean(), present.std()
    expected = (np.array([1.0, 2, mean, 4, 0, 0]) - mean) / deviation
    assert table.standardised[:, 0] == pytest.approx(expected)
    assert table.standardised.shape == (6, 1)
    assert table.standardise({"p": 3.0, "other": 9.0}) == pytest.approx([(3 - mean) / deviation])
    assert table.standardise({"q": 3.0}) == pytest.approx([0])
    without = evidence(covariates=np.zeros((6, 0)), columns=())
    assert without.standardised.shape == (6, 0)
    assert without.standardise({"p": 3.0}).shape == (0,)


def test_thinning_by_hand():
    """Half of the limit comes from the top, and the rest is spread from the next to the last."""
    assert thinned(np.arange(10) + 100, 5).tolist() == [100, 101, 102, 105, 109]
    assert thinned(np.arange(11), 4).tolist() == [0, 1, 2, 10]
    assert thinned(np.arange(9), 9).tolist() == list(range(9))
