"""Wins and scores against slow definitions: each pair of trials is compared by itself."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from blend_study import mirrored
from optuna.trial import TrialState, create_trial

from dropopt.study.blend.outcomes import outcomes_of, standardised
from dropopt.study.blend.ranks import normal_scores, wins_of

VALUES = (-1.0, 0.0, 0.5, 2.0, math.nan, math.inf, -math.inf)


def random_trials(rng, pruned):
    """Trials with gaps in their reports, ties, values that are not finite, and pruned trials without a report."""
    found = []
    for number in range(int(rng.integers(1, 12))):
        steps = [step for step in range(int(rng.integers(0, 5))) if rng.uniform() < 0.8]
        reports = {step: float(rng.choice(VALUES)) for step in steps}
        state = TrialState.PRUNED if rng.uniform() < pruned else TrialState.COMPLETE
        value = float(rng.choice([-1.0, 0.0, 0.5, math.inf])) if state == TrialState.COMPLETE else None
        trial = create_trial(state=state, value=value, intermediate_values=reports)
        trial.number = number
        found.append(trial)
    return found


def by_pairs(trials, outcome, sign):
    """The wins of each trial, from one comparison for each pair."""

    def last(trial):
        complete = trial.state == TrialState.COMPLETE
        return math.inf if complete else max(trial.intermediate_values, default=-math.inf)

    def at(trial, step):
        if step == -math.inf and not trial.intermediate_values:
            return 0.0  # two trials without a report tie
        if step not in trial.intermediate_values:
            return math.inf  # it outlived the other
        value = trial.intermediate_values[int(step)]
        return sign * value if math.isfinite(value) else -math.inf

    wins = []
    for i, one in enumerate(trials):
        total = 0.0
        for j, other in enumerate(trials):
            step = min(last(one), last(other))
            mine, theirs = (outcome[i], outcome[j]) if step == math.inf else (at(one, step), at(other, step))
            total += 0.0 if i == j else 1.0 if mine > theirs else 0.5 if mine == theirs else 0.0
        wins.append(total)
    complete = [w for w, trial in zip(wins, trials, strict=True) if trial.state == TrialState.COMPLETE]
    limit = float(np.median(complete)) if complete else math.inf
    return [w if trial.state == TrialState.COMPLETE else min(w, limit) for w, trial in zip(wins, trials, strict=True)]


@pytest.mark.parametrize("maximise", [False, True])
@pytest.mark.parametrize("pruned", [0.0, 0.5, 1.0])
def test_wins_are_those_of_all_pairs(maximise, pruned):
    """Of 150 random studies, the wins are those of comparing each pair at the last step that both reached."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        trials = random_trials(rng, pruned)
        outcome = outcomes_of(trials, maximise)
        wins = wins_of(trials, outcome, maximise)
        assert wins.tolist() == by_pairs(trials, outcome, 1.0 if maximise else -1.0)


def test_the_direction_is_a_sign():
    """Maximising the negated objective gives the same wins and outcomes."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        trials = random_trials(rng, 0.4)
        opposite = mirrored(trials)
        lower, higher = outcomes_of(trials, False), outcomes_of(opposite, True)
        assert lower.tolist() == higher.tolist()
        assert wins_of(trials, lower, False).tolist() == wins_of(opposite, higher, True).tolist()


def test_normal_scores_by_hand():
    """Scores are normal quantiles of (rank - 1/2) / n, ties share a rank, and no trials give no scores."""
    quantile = NormalDist().inv_cdf
    expected = [quantile(0.5 / 5), quantile(2 / 5), quantile(2 / 5), quantile(4.5 / 5), quantile(3.5 / 5)]
    assert normal_scores(np.array([-math.inf, 1.0, 1.0, 7.0, 3.0])).tolist() == pytest.approx(expected)
    assert normal_scores(np.zeros(0)).shape == (0,)


def test_outcomes_by_hand():
    """The sign follows the direction; violated constraints and unusable values rank last, in this order."""
    trials = [
        create_trial(value=2.0),
        create_trial(value=-math.inf),
        create_trial(value=math.inf),
        create_trial(state=TrialState.PRUNED, value=7.0),
        create_trial(value=3.0, system_attrs={"constraints:a": -1.0, "constraints:b": 0.0}),
        create_trial(value=3.0, system_attrs={"constraints:a": -1.0, "constraints:b": 0.1}),
        create_trial(value=math.inf, system_attrs={"constraints:a": 1.0}),
    ]
    unusable, infeasible = -math.inf, -1e300
    for sign, maximise in ((-1.0, False), (1.0, True)):
        expected = [sign * 2, unusable, unusable, unusable, sign * 3, infeasible, unusable]
        assert outcomes_of(trials, maximise).tolist() == expected


def test_standardised_by_hand():
    """Values keep distances: 0 to 8 by 1, of which the last two are outliers and one row has no outcome."""
    outcome = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -500.0, 900.0, -1e300, -math.inf])
    score = np.array([-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5, -1.0, 1.0, 0.2, -9.0])
    spread = (5 - 1) / 1.349  # of the first nine the quartiles are 1 and 5, and the median is 3
    filled = [*outcome[:9].tolist(), 4.5, -500.0]  # score 0.2 is half way between the scores of 4 and 5
    raw = np.array([min(max((x - 3) / spread, -3.0), 6.0) for x in filled])
    value, unit = standardised(outcome, score)
    assert value == pytest.approx((raw - raw.mean()) / raw.std())
    quartiles = np.quantile(score[:9], [0.25, 0.75])
    assert unit == pytest.approx((5 - 1) / (quartiles[1] - quartiles[0]))


def test_standardised_degenerate():
    """Fewer than two outcomes leave the scores; equal outcomes are 0; a zero interquartile range is replaced."""
    score = np.array([-1.0, 0.0, 1.0])
    for outcome in ([-math.inf] * 3, [1.0, -math.inf, -1e300]):
        value, unit = standardised(np.array(outcome), score)
        assert value.tolist() == score.tolist()
        assert math.isnan(unit)
    value, unit = standardised(np.full(3, 7.0), np.zeros(3))
    assert value.tolist() == [0, 0, 0]
    assert math.isnan(unit)
    outcome = np.array([1.0] * 9 + [2.0])  # the standard deviation, 0.3, replaces the interquartile range, 0
    value, unit = standardised(outcome, np.linspace(-1, 1, 10))
    assert unit == 0
    raw = np.where(outcome == 2, 1 / 0.3, 0.0)
    assert value == pytest.approx((raw - raw.mean()) / raw.std())
    two, _ = standardised(np.array([1.0, 3.0]), np.array([-1.0, 1.0]))
    assert two == pytest.approx([-1, 1])
