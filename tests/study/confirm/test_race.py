"""The race: clearly worse configurations are out, and the best one almost never is."""

import numpy as np
from scipy import stats

from dropopt.study.confirm.race import leading_anchor, losers


def rows(*values):
    return {number: dict(enumerate(row)) for number, row in enumerate(values)}


def test_only_the_clearly_worse_are_out():
    """A configuration far above the leader is out after three seeds; a similar one is not. Two are too few."""
    values = rows([0.30, 0.31, 0.32], [0.60, 0.61, 0.63], [0.31, 0.30, 0.33], [0.9, 0.9])
    found = losers(values, seeds=5)
    assert list(found) == [1]
    assert found[1] == "clearly worse than the leader after 3 seeds, by 98%"
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

    Those that are out already count: they were compared too. Runs end in any order, so that configurations have
    different seeds: the leader is that with the lowest mean of its own, and compared are the seeds that both have.
    """
    rng = np.random.default_rng(0)
    decided = []
    for _ in range(300):
        count, seeds, present = int(rng.integers(2, 5)), int(rng.integers(3, 9)), int(rng.integers(3, 8))
        entrants = count + int(rng.integers(0, 8))
        table = np.exp(0.05 * rng.normal(size=(count, present)) + np.array([[0.0], [0.05], [0.1], [0.2]])[:count])
        has = rng.uniform(size=table.shape) < rng.choice([0.8, 1.0])
        logs = np.where(has, np.log(table + 1e-3), np.nan)
        started = np.flatnonzero(has.sum(axis=1) >= 3)
        worse = []
        if len(started) > 1:
            leader = min(started, key=lambda number: np.nanmean(logs[number]))
            level = 0.05 / ((entrants - 1) * max(seeds - 3, 1))
            worse = [
                number
                for number in started
                if number != leader
                and (both := has[number] & has[leader]).sum() >= 3
                and stats.ttest_rel(logs[number, both], logs[leader, both], alternative="greater").pvalue < level
            ]
        values = {
            number: {seed: float(table[number, seed]) for seed in np.flatnonzero(has[number])}
            for number in range(count)
        }
        assert list(losers(values, seeds=seeds, entrants=entrants)) == worse
        decided += [number in worse for number in range(count)]
    assert 0.1 < np.mean(decided) < 0.9


def test_the_leading_anchor_has_the_lowest_mean():
    """Anchors without a run are not considered. As in the race, the mean is that of the logarithms."""
    values = rows([0.5, 0.4], [0.3], [0.2, 0.1], [])
    assert leading_anchor(values, [0, 1, 3]) == 1
    assert leading_anchor(rows([0.3, 0.3, 2.0], [0.6, 0.6, 0.6]), [0, 1]) == 0
    assert leading_anchor(values, [3]) is None
