"""Intervals and corrections, checked against SciPy and against examples computed by hand."""

import math

import pytest
from scipy import stats

from dropopt.study.confirm.intervals import holm, mean_of, paired

FIRST = {0: 0.31, 1: 0.35, 2: 0.30, 3: 0.38, 5: 9.0}
SECOND = {3: 0.41, 2: 0.31, 1: 0.36, 0: 0.36, 4: 9.0}


def test_a_mean_has_students_interval():
    """As SciPy's one-sample t test gives it; with one value it is infinite, and null in JSON."""
    values = list(FIRST.values())
    found = mean_of(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((sum(values) / 5, low, high))
    assert mean_of([2.0]).plain() == {"mean": 2.0, "low": None, "high": None, "n": 1}


def test_differences_are_paired_by_seed():
    """Only seeds that both have count; interval and p value are those of the paired t test."""
    found = paired(FIRST, SECOND)
    expected = stats.ttest_rel([FIRST[seed] for seed in range(4)], [SECOND[seed] for seed in range(4)])
    low, high = expected.confidence_interval(0.95)
    assert found.interval.n == 4
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx((-0.025, low, high))
    assert found.p == pytest.approx(expected.pvalue)
    assert paired({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) is None


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (-0.5, 0.0)])
def test_equal_differences_have_a_p_value(shift, p):
    """Identical results are no difference, and a constant difference is certain; SciPy returns NaN or warns."""
    found = paired({0: 1.0 + shift, 1: 2.0 + shift}, {0: 1.0, 1: 2.0})
    assert found.p == p
    assert math.isclose(found.interval.mean, shift)


def test_holm_corrects_for_many_comparisons():
    """The values of R: p.adjust(c(0.01, 0.02, 0.03, 0.005), "holm"); never above 1, and monotone in p."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
