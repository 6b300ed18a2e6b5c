"""The race: clearly worse configurations are out, and the best one almost never is."""

import numpy as np
from scipy import stats

from dropopt.study.confirm.race import FEWEST_SEEDS, OFFSET, leading_anchor, losers


def rows(*values):
    return {number: dict(enumerate(row)) for number, row in enumerate(values)}


def test_only_the_clearly_worse_are_out():
    """A configuration far above the leader is out after three seeds; a similar one is not. Two are too few."""
    values = rows([0.30, 0.31, 0.32], [0.60, 0.61, 0.63], [0.31, 0.30, 0.33], [0.9, 0.9])
    found = losers(values, seeds=5)
    assert list(found) == [1]
    assert found[1] == "98% above the leader after 3 seeds"
    assert losers(values, seeds=5, kept=[1]) == {}
    assert losers({0: values[0]}, seeds=5) == {}


def test_a_run_that_diverged_does_not_hide_a_difference():
    """On the logarithmic scale, one huge loss does not widen the interval until nothing is clear."""
    usual = [0.30, 0.31, 0.30, 0.31, 0.30, 0.31]
    assert list(losers(rows(usual, [0.6, 0.6, 0.6, 0.6, 0.6, 81490.0]), seeds=10)) == []
    assert list(losers(rows(usual, [0.9, 0.9, 0.9, 0.9, 0.9, 2.0]), seeds=10)) == [1]


def test_an_error_of_zero_is_a_value():
    """Accuracy may be perfect, and the logarithm of an error of 0 does not exist."""
    assert list(losers(rows([0.0, 0.0, 0.001], [0.2, 0.21, 0.2]), seeds=5)) == [1]


def test_the_best_is_rarely_out():
    """With ten equal configurations and a look after each seed, the first one is out in at most 5% of the races."""
    rng = np.random.default_rng(0)
    out = 0
    for _ in range(200):
        values = np.exp(0.1 * rng.normal(size=(10, 8)))
        out += any(0 in losers(rows(*values[:, :seeds].tolist()), seeds=8, entrants=10) for seeds in range(3, 8))
    assert out <= 10


def test_the_level_is_corrected_for_all_entrants_and_looks():
    """Out is who SciPy's one-sided paired t test of the logarithms finds worse, at 5% divided by all comparisons.

    Those that are out already count: they were compared too.
    """
    rng = np.random.default_rng(0)
    decided = []
    for _ in range(300):
        seeds, entrants, present = int(rng.integers(4, 9)), int(rng.integers(4, 12)), int(rng.integers(3, 8))
        table = np.exp(0.05 * rng.normal(size=(4, present)) + [[0.0], [0.05], [0.1], [0.2]])
        logs = np.log(table + OFFSET)
        leader = int(logs.mean(axis=1).argmin())
        level = 0.05 / ((entrants - 1) * (seeds - FEWEST_SEEDS))
        worse = [
            number
            for number in set(range(4)) - {leader}
            if stats.ttest_rel(logs[number], logs[leader], alternative="greater").pvalue < level
        ]
        assert sorted(losers(rows(*table.tolist()), seeds=seeds, entrants=entrants)) == worse
        decided += [number in worse for number in range(4)]
    assert 0.1 < np.mean(decided) < 0.9


def test_the_leading_anchor_has_the_lowest_mean():
    """Anchors without a run are not considered. As in the race, the mean is that of the logarithms."""
    values = rows([0.5, 0.4], [0.3], [0.2, 0.1], [])
    assert leading_anchor(values, [0, 1, 3]) == 1
    assert leading_anchor(rows([0.3, 0.3, 2.0], [0.6, 0.6, 0.6]), [0, 1]) == 0
    assert leading_anchor(values, [3]) is None
