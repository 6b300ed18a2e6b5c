"""The expected score of each trial: the posterior mean of a Gaussian process with the noise of the seed in it.

The best of many trials, each with a seed of its own, owes its rank partly to luck. The model estimates how much of the
scores it cannot explain, and shrinks each score towards those of similar configurations. A smooth model of few trials
explains little, and what it leaves unexplained is not all noise. One half of it counts as a property of the
configuration itself, so that a good result is never ignored.

The scores are ranks as quantiles of the normal distribution, in which pruned trials and trials that diverged have their
place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.ranks import normal_scores, wins_of
from dropopt.study.confirm.encoding import encoded

#: Bounds of a length scale; a range has the length 1. A longer scale than the upper bound means no effect.
LENGTHS = (0.3, 30.0)
#: Bounds of the variances of signal and noise; the scores have the variance 1.
SIGNAL, NOISE = (0.1, 10.0), (0.02, 2.0)
#: The share of what the model does not explain that is a property of the configuration, and not of the seed.
OWN = 0.5


def expected_scores(trials: Sequence[FrozenTrial], outcome: Array) -> Array:
    """Return the posterior mean of the score of each of ``trials``; higher is better.

    Args:
        trials: The complete and pruned trials of a study that minimises.
        outcome: The outcome of each of them, higher is better; that of a pruned trial is not used.
    """
    score = normal_scores(_wins(trials, outcome))
    columns = encoded(trials)
    if not columns.shape[1] or not np.ptp(score):
        return np.asarray(score, dtype=float)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths = np.ones(columns.shape[1])
    kernel = ConstantKernel(1.0, SIGNAL) * Matern(lengths, LENGTHS, nu=2.5) + WhiteKernel(0.3, NOISE)
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound: a parameter without an effect
        process.fit(columns, score)
    smooth = process.predict(columns)
    return np.asarray(smooth + OWN * (score - smooth), dtype=float)


def _wins(trials: Sequence[FrozenTrial], outcome: Array) -> Array:
    """How many of the other trials each trial beats; complete trials are in the order of their outcomes.

    Compared with a pruned trial at its last step, a trial that learns slowly and ends well would seem poor. Complete
    trials with equal outcomes share what they beat.
    """
    from scipy.stats import rankdata  # takes half a second, which the start of a study does not need

    wins = wins_of(trials, outcome, maximise=False)
    complete = np.isfinite(outcome)
    places = rankdata(outcome[complete]) - 1
    wins[complete] = np.interp(places, np.arange(len(places)), np.sort(wins[complete]))
    return wins
