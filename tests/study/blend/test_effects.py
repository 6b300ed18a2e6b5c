"""Effects: whether claims are justified, and whether intervals cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from blend_study import NAMES, random_study

from dropopt.study.blend.effects import learn
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.gather import gather
from dropopt.study.blend.mixture import scheffe
from dropopt.study.blend.ranks import normal_scores


def test_shuffled_outcomes_give_no_claim() -> None:
    """With shuffled outcomes, no claim is made and no method is the best with high probability."""
    for seed in range(5):
        found = learn(gather(random_study(60, seed=seed, shuffle=True).trials, NAMES, maximise=False))
        assert found.verdict.startswith("No effect found")
        assert found.caution == " (but no effect was found)"
        assert max(effect.best for effect in found.methods[0]) < 0.65


def test_without_trials_every_method_is_equally_likely_the_best() -> None:
    """No claim is made then."""
    empty = learn(gather([], NAMES, maximise=False))
    assert empty.thin
    assert [effect.best for effect in empty.methods[0]] == pytest.approx([1 / 3] * 3)


def test_intervals_cover_the_truth() -> None:
    """If the model is correct, 90% intervals cover 83 to 97% of 110 true effects (in the benchmark: 85 to 95%).

    True effects are on the scale of scores: coefficients divided by the standard deviation of the outcome.
    """
    hits = []
    for seed in range(11):
        rng = np.random.default_rng(seed)
        blends = rng.dirichlet(np.ones(4), size=80)
        linear, pairs = scheffe(blends)
        alone, together = rng.normal(size=4) * 0.4, rng.normal(size=6) * 0.25
        clean = linear @ alone + pairs @ together
        outcome = clean + rng.normal(size=80) * 0.6
        names = (tuple(f"w_{i}" for i in range(4)),)
        score = normal_scores(outcome)
        none = np.zeros((80, 0))
        table = Evidence(names, blends[:, None], score, score, none, (), np.ones(80), np.arange(80, dtype=np.int64), 80)
        found = learn(table)
        grid = np.random.default_rng(1).dirichlet(np.ones(4), size=4000)
        a, b = scheffe(grid)
        scale = math.sqrt(np.var(a @ alone + b @ together) + 0.36)

        def at(blend: np.ndarray, alone: np.ndarray = alone, together: np.ndarray = together) -> float:
            line, pair = scheffe(blend)
            return float(line @ alone + pair @ together)

        even, corner = np.full(4, 0.25), np.eye(4)
        truth = [(at((even + corner[i]) / 2) - at(even)) / scale for i in range(4)]
        truth += [
            (at((corner[i] + corner[j]) / 2) - (at(corner[i]) + at(corner[j])) / 2) / scale
            for i in range(4)
            for j in range(i + 1, 4)
        ]
        effects = [*found.methods[0], *found.pairs[0]]
        hits += [effect.low <= value <= effect.high for effect, value in zip(effects, truth, strict=True)]
    assert 0.83 <= np.mean(hits) <= 0.97
