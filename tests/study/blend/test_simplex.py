"""Legal values of shares: properties over random distributions, and cases by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dropopt.study.blend.climb import climb, random_blend
from dropopt.study.blend.mixture import normalised
from dropopt.study.blend.simplex import Simplex, external, numeric, project

NAMES = (("a", "b", "c"), ("d", "e", "f"))
DISTRIBUTIONS = [
    FloatDistribution(0, 1),
    FloatDistribution(0, 1, step=0.25),
    FloatDistribution(0.01, 0.5, log=True),
    FloatDistribution(0.2, 3.0),
    FloatDistribution(0.1, 0.9, step=0.2),
    FloatDistribution(0.3, 0.3),
    IntDistribution(0, 4),
    IntDistribution(1, 9, step=4),
    CategoricalDistribution([0.0, 1.0, 0.25]),
    CategoricalDistribution([2]),
]


@settings(max_examples=100)
@given(data=st.data())
def test_values_are_legal(data):
    """Every value is in its distribution, held values are kept, and not all free values are 0."""
    drawn = [data.draw(st.sampled_from(DISTRIBUTIONS)) for _ in range(3)]
    distributions = dict(zip("def", drawn, strict=True))
    held = {"d": data.draw(st.sampled_from([0.0, 0.3, 1.0, 5.0]))} if data.draw(st.booleans()) else {}
    shares = np.random.default_rng(data.draw(st.integers(0, 99))).dirichlet(np.ones(3), size=5)
    values = Simplex(NAMES, distributions, held, 0.001).values(shares, 1)
    for name, distribution, column in zip("def", drawn, values.T, strict=True):
        for value in column.tolist():
            if name in held:
                assert value == held[name]
            else:
                assert distribution._contains(distribution.to_internal_repr(external(value, distribution)))
    single = all(distribution.single() for distribution in drawn[len(held) :])
    assert single or (values.sum(axis=1) > 0).all()


def values(distributions=None, held=None, *, floor=0.0, stage=0, shares=(0.5, 0.3, 0.2)):
    """The values (M,) of one blend."""
    return Simplex(NAMES, distributions or {}, held or {}, floor).values(np.array([shares]), stage)[0].tolist()


def test_free_values_by_hand():
    """Shares in [0, 1] are kept; the floor shrinks the others in proportion to what they have above it."""
    assert values() == pytest.approx([0.5, 0.3, 0.2])
    assert values(shares=[1, 0, 0]) == [1, 0, 0]
    assert values(floor=0.1) == pytest.approx([0.1 + 0.4 / 0.7 * 0.7, 0.1 + 0.2 / 0.7 * 0.7, 0.1 + 0.1 / 0.7 * 0.7])
    assert values(floor=0.1, shares=[1, 0, 0]) == pytest.approx([0.8, 0.1, 0.1])
    low = [0.2, 0.2 + 0.1 / 0.5 * 0.4, 0.2 + 0.4 / 0.5 * 0.4]
    assert values(floor=0.2, shares=[0.1, 0.3, 0.6]) == pytest.approx(low)


def test_held_values_by_hand():
    """Free values complement a held value; beyond a sum of 1, they keep their proportion to it."""
    assert values({}, {"c": 0.6}) == pytest.approx([0.25, 0.15, 0.6])
    wide = dict.fromkeys("abc", FloatDistribution(0, 100))
    # A held sum of 4 is the share 0.2, so that one share is 20.
    assert values(wide, {"c": 4.0}) == pytest.approx([10.0, 6.0, 4.0])
    assert values(wide, {"c": 1.0}) == pytest.approx([2.5, 1.5, 1.0])
    # The share of the held names is at least 0.05.
    assert values(wide, {"c": 2.0}, shares=[0.5, 0.49, 0.01]) == pytest.approx([20.0, 19.6, 2.0])
    both = {"a": 0.1, "b": 0.2, "e": 0.9}
    assert values({}, both) == pytest.approx([0.1, 0.2, 0.7])
    assert values({}, both, stage=1) == pytest.approx([0.1 * 0.5 / 0.7, 0.9, 0.1 * 0.2 / 0.7])
    assert values({}, {"a": 0.1, "b": 0.2, "c": 0.0}) == [0.1, 0.2, 0.0]


def test_ranges_by_hand():
    """Values above a range are scaled down together; a single value is held; the first stage differs from the second.

    If coarse steps round all free values to 0, the largest share gets its upper bound.
    """
    narrow = {"a": FloatDistribution(0, 0.1), "d": FloatDistribution(0.4, 0.4)}
    assert values(narrow) == pytest.approx([0.1, 0.06, 0.04])
    assert values(narrow, stage=1) == pytest.approx([0.4, 0.36, 0.24])
    assert values(narrow, {"d": 0.2}, stage=1) == pytest.approx([0.2, 0.48, 0.32])
    assert values({"a": FloatDistribution(0, 0.5)}) == pytest.approx([0.5, 0.3, 0.2])
    coarse = Simplex(NAMES, dict.fromkeys("abc", FloatDistribution(0, 3, step=1.5)), {}, 0.0)
    rows = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.9, 0.05, 0.05]])
    assert coarse.values(rows, 0).tolist() == [[3, 0, 0], [0, 0, 3], [1.5, 0, 0]]
    assert values(dict.fromkeys("abc", FloatDistribution(0, 3, step=1.5)), {"c": 0.0}, shares=rows[1]) == [0, 3, 0]
    assert values(dict.fromkeys("abc", FloatDistribution(0, 0))) == [0, 0, 0]


@pytest.mark.parametrize(
    ("distribution", "values", "expected"),
    [
        (FloatDistribution(0.2, 0.8), [0.1, 0.5, 0.9], [0.2, 0.5, 0.8]),
        (FloatDistribution(0.1, 1.1, step=0.25), [0.0, 0.22, 0.23, 0.6, 9.0], [0.1, 0.1, 0.35, 0.6, 1.1]),
        (IntDistribution(1, 9, step=4), [0.0, 2.9, 3.1, 8.0], [1, 1, 5, 9]),
        (CategoricalDistribution([0.0, 4.0, 1.0]), [-1.0, 0.6, 2.4, 2.6], [0, 1, 1, 4]),
    ],
)
def test_projection_by_hand(distribution, values, expected):
    """The nearest value that the distribution contains, of its own type."""
    projected = project(np.array(values), distribution)
    assert projected == pytest.approx(np.array(expected))
    assert [type(external(x, distribution)) for x in projected.tolist()] == [
        int if isinstance(distribution, IntDistribution) else float
    ] * len(values)
    choices = CategoricalDistribution([0, 4, 0.5])
    assert [external(x, choices) for x in (0.0, 0.4, 3.9)] == [0, 0.5, 4]


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (FloatDistribution(0, 1), True),
        (FloatDistribution(-0.1, 1), False),
        (IntDistribution(0, 3), True),
        (IntDistribution(-1, 3), False),
        (CategoricalDistribution([0, 0.5]), True),
        (CategoricalDistribution([0, -0.5]), False),
        (CategoricalDistribution([0, True]), False),
        (CategoricalDistribution(["0", 1]), False),
        (BaseDistribution, False),
    ],
)
def test_numeric_distributions(distribution, expected):
    """Weights are numbers that are never negative; a boolean is not a number."""
    assert numeric(distribution) is expected


def test_climbing_finds_the_maximum():
    """From poor incumbents, the maximum of a smooth peak inside, on an edge and at a vertex is found to 0.02."""
    for peak in ([0.2, 0.5, 0.3], [0.37, 0.63, 0.0], [0.0, 0.0, 1.0]):
        seen = []

        def height(shares, stage, peak=peak, seen=seen):
            seen.append((shares, stage))
            return -np.abs(shares - peak).sum(axis=1)

        best = climb(height, 1, np.full((2, 3), 1 / 3), lambda shares, _: 2 * shares, np.random.default_rng(0))
        assert best == pytest.approx(2 * np.array(peak), abs=0.04)
        for shares, stage in seen:  # the function sees shares, whatever the values
            assert stage == 1
            assert shares.sum(axis=1) == pytest.approx(1)
            assert shares.min() >= -1e-12


def climbed(height, incumbents, **options):
    """The blends of each round of a climb, and the best one."""
    rounds = []
    legal = lambda shares, stage: rounds.append(shares) or shares  # noqa: E731
    return rounds, climb(height, 0, incumbents, legal, np.random.default_rng(0), **options)


def test_candidates_of_a_climb():
    """The first round has two random kinds, vertices, edges, centre, incumbents and their neighbours.

    Then the eight highest have ten neighbours each, at a distance that falls from round to round.
    """
    incumbents = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.1, 0.7]])
    rounds, best = climbed(lambda shares, stage: shares[:, 0] * shares[:, 1], incumbents, stages=4)
    pool = 48  # 96 / sqrt(4)
    assert [len(one) for one in rounds] == [2 * pool + 4 + 6 + 1 + 2 + 8, 80, 80, 80]
    first = rounds[0]
    assert (np.sort(first[:pool], axis=1)[:, 0] > 0.005).mean() > 0.7  # uniform: few are near a face
    assert (np.sort(first[pool : 2 * pool], axis=1)[:, 0] > 0.005).mean() < 0.6
    fixed = first[2 * pool :]
    assert fixed[:4].tolist() == np.eye(4).tolist()
    halves = {tuple(row) for row in fixed[4:10].tolist()}
    assert halves == {tuple(0.5 * (k in (i, j)) for k in range(4)) for i in range(4) for j in range(i)}
    assert fixed[10].tolist() == [0.25] * 4
    assert fixed[11:13].tolist() == incumbents.tolist()
    kept = first[np.argsort(-first[:, 0] * first[:, 1], kind="stable")[:8]]
    for earlier, width, around in ((incumbents, 0.3, fixed[13:]), (kept, 0.3, rounds[1])):
        count = len(around) // len(earlier)
        step = around - np.repeat(earlier, count, axis=0)
        assert around.sum(axis=1) == pytest.approx(1)
        assert around.min() >= 0
        moved = step[1::2]  # every other neighbour moves share from one method to another
        assert ((np.abs(moved) > 1e-12).sum(axis=1) <= 2).all()
        assert (np.abs(moved).max(axis=1) <= 2 * width).all()
        assert (np.abs(moved).max(axis=1) > 0).any()
        mixed = np.abs(step[::2])
        assert ((mixed > 1e-12).sum(axis=1) > 2).any()
        assert mixed.max() <= width
    spread = [np.abs(later - np.repeat(best[None], 80, axis=0)).max() for later in rounds[1:]]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 0.15
    assert best[0] * best[1] == max((one[:, 0] * one[:, 1]).max() for one in rounds)
    assert best[:2] == pytest.approx([0.5, 0.5], abs=0.01)


def test_neighbours_reach_their_width():
    """Moves towards a random blend are uniform up to the width, and transfers have the distribution 2 w u^2."""
    rounds, _ = climbed(lambda shares, _: np.zeros(len(shares)), np.full((2000, 3), 1 / 3))
    assert len(rounds[0]) == 2 * 96 + 3 + 3 + 1 + 2000 + 8000, "of one stage, unless another number is given"
    around = rounds[1] - np.repeat(rounds[0][:8], 10, axis=0)  # of equal heights, the first are kept
    assert ((np.abs(around[1::2]) > 1e-12).sum(axis=1) <= 2).all()
    step = rounds[0][-8000:] - 1 / 3
    assert step[::2].mean(axis=0) == pytest.approx(0, abs=0.005)
    # E[u^2] = 1/3; a share of Dirichlet(1/2, 1/2, 1/2) has variance (1/3) (2/3) / (3/2 + 1)
    assert (step[::2] ** 2).mean() == pytest.approx(0.09 / 3 * (2 / 9) / 2.5, rel=0.05)
    amount = np.abs(step[1::2]).max(axis=1)
    assert amount.max() <= 1 / 3
    assert (amount == 0).mean() == pytest.approx(1 / 3, abs=0.03)  # giver and taker are the same method
    expected = np.minimum(1 / 3, 0.6 * np.random.default_rng(1).uniform(size=100_000) ** 2).mean()
    assert amount[amount > 0].mean() == pytest.approx(expected, rel=0.05)


def test_random_blends():
    """Half of the blends are uniform on the simplex and half are near faces: second moments of both."""
    rng = np.random.default_rng(0)
    blends = np.array([random_blend(rng, 4) for _ in range(6000)])
    assert blends.sum(axis=1) == pytest.approx(1)
    assert blends.mean(axis=0) == pytest.approx(0.25, abs=0.015)
    variances = [0.25 * 0.75 / (4 * a + 1) for a in (1.0, 0.35)]
    assert blends.var() == pytest.approx(np.mean(variances), rel=0.05)
    assert normalised(blends) == pytest.approx(blends)
