"""The readable model against its closed form, its contrasts against differences of the polynomial and the truth."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from blend_study import NAMES, random_study
from random_evidence import table_of
from scipy.stats import multivariate_normal
from sklearn.linear_model import BayesianRidge

from dropopt.study.blend import regression
from dropopt.study.blend.effects import Effect, Efficacy, learn
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.gather import gather
from dropopt.study.blend.mixture import scheffe
from dropopt.study.blend.ranks import normal_scores
from dropopt.study.blend.regression import PriorScales, fit, terms


def evidence_of_ridge(x: np.ndarray, y: np.ndarray, alpha: float, precision: float) -> float:
    """The log marginal likelihood of a ridge regression with an intercept, and gamma priors on the precisions."""
    x, y = x - x.mean(axis=0), y - y.mean()
    covariance = np.eye(len(y)) / alpha + x @ x.T / precision
    likelihood = multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)
    # Up to a constant, as scikit-learn: lambda_1 log(lambda) - lambda_2 lambda, likewise alpha.
    return float(likelihood + math.log(precision) - precision + math.log(alpha) - 0.3 * alpha)


def test_scales():
    """Two prior scales have no blend; eight have one, with pairs at most as large as linear terms."""
    expected = {(1e-4, 1e-4, c) for c in (0.1, 0.5)}
    expected |= {(b, b * p, c) for b in (0.3, 1.0) for p in (0.3, 1.0) for c in (0.1, 0.5)}
    assert {(s.linear, s.pairs, s.covariates) for s in regression.SCALES} == expected
    assert sum(scales.without_blend for scales in regression.SCALES) == 2


@pytest.mark.parametrize("stages", [1, 3])
def test_terms_by_stage(stages):
    """The prior variance of a term's sum is split: three quarters common to all stages, one quarter for each alone."""
    blend = np.random.default_rng(0).dirichlet(np.ones(4), size=(5, stages))
    for found, single in zip(terms(blend), scheffe(blend), strict=True):
        expected = [single.mean(axis=1) * math.sqrt(0.75 if stages > 1 else 1)]
        if stages > 1:
            expected += [single[:, s] * math.sqrt(0.25) / stages for s in range(stages)]
        assert found == pytest.approx(np.concatenate(expected, axis=1))


def parts_of(table: Evidence) -> tuple[np.ndarray, ...]:
    """Linear terms, pair terms, and the first two Hermite polynomials of the covariates."""
    c = table.standardised
    return *terms(table.blend), np.concatenate([c, (c**2 - 1) / math.sqrt(2)], axis=1)


def test_one_fit_is_its_closed_form():
    """Centre, covariance and evidence are those of Gaussian conditioning at the precisions that scikit-learn finds."""
    table, scales = table_of(30), PriorScales(1.0, 0.3, 0.5)
    linear, pairs, others = parts_of(table)
    found = regression._fit(linear, pairs, others, table.score, scales)
    x = np.concatenate([linear, pairs * 0.3, others * 0.5], axis=1)
    model = BayesianRidge(lambda_1=1.0, lambda_2=1.0, alpha_1=1.0, alpha_2=0.3, compute_score=True).fit(x, table.score)
    centred = x - x.mean(axis=0)
    posterior = np.linalg.inv(model.lambda_ * np.eye(10) + model.alpha_ * centred.T @ centred)
    scale = np.array([1.0] * 3 + [0.3] * 3)
    centre = model.alpha_ * posterior @ centred.T @ (table.score - table.score.mean())
    assert found.centre == pytest.approx(centre[:6] * scale)
    assert found.covariance == pytest.approx(posterior[:6, :6] * np.outer(scale, scale))
    effective = 10 - model.lambda_ * np.trace(posterior)
    assert found.freedom == pytest.approx(30 - effective - 1)
    assert found.log_evidence == pytest.approx(
        evidence_of_ridge(x, table.score, model.alpha_, model.lambda_), abs=1e-3 * abs(found.log_evidence)
    )
    few = regression._fit(linear[:4], pairs[:4], others[:4], table.score[:4], scales)
    assert few.freedom == 2


def test_draws_are_those_of_a_wide_t_distribution():
    """Centre, covariance and kurtosis of 20,000 draws of one fit."""
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    one = regression._Fit(np.array([3.0, -1.0]), covariance, 12.0, 0.0)
    draws = one.draw(20_000, np.random.default_rng(0))
    assert draws.mean(axis=0) == pytest.approx([3, -1], abs=0.04)
    assert np.cov(draws.T) == pytest.approx(1.08**2 * 12 / 10 * covariance, rel=0.05)
    z = (draws - draws.mean(axis=0)) / draws.std(axis=0)
    assert (z**4).mean() == pytest.approx(3 + 6 / 8, rel=0.08)
    singular = regression._Fit(np.zeros(2), np.array([[1.0, 1.0], [1.0, 1.0]]), 5.0, 0.0)
    assert np.ptp(singular.draw(9, np.random.default_rng(0)), axis=1) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("noise", [False, True])
def test_scales_are_averaged_by_bayes_rule(noise):
    """P(matters) is the evidence of the scales with a blend; draws are shared among them by their weight."""
    table = table_of(30)
    if noise:
        table = replace(table, score=np.random.default_rng(1).normal(size=30))
    fits = [regression._fit(*parts_of(table), table.score, scales) for scales in regression.SCALES]
    logs = np.array([one.log_evidence for one in fits])
    weight = np.maximum(np.exp(logs - logs.max()), 1e-12) * np.array([0.5 / 2] * 2 + [0.5 / 8] * 8)
    weight /= weight.sum()
    found = fit(table)
    assert found.matters == pytest.approx(weight[2:].sum())
    assert (0.1 < found.matters < 0.9) is noise
    share = weight[2:] / weight[2:].sum()
    counts = np.round(share * 4000)
    assert len(found.draws) == counts.sum()
    centre = sum(s * one.centre for s, one in zip(share, fits[2:], strict=True))
    spread = np.sqrt(np.max([np.diag(one.covariance) for one in fits[2:]], axis=0) / 1000)
    assert (np.abs(found.draws.mean(axis=0) - centre) < 4 * spread).all()
    again = fit(table)
    assert (again.draws == found.draws).all()


def test_too_few_or_equal_rows():
    """With fewer than four rows, or equal scores, the posterior is the prior probability and no effect."""
    for table in (table_of(3), replace(table_of(30), score=np.zeros(30))):
        found = fit(table)
        assert found.matters == 0.5
        assert found.draws.tolist() == [[0.0] * 6]
    assert fit(table_of(4)).draws.shape[0] > 1


def test_rows_of_a_prior():
    """As many rows of a prior as its weight, from worst to best, beside the study's own."""
    table = table_of(9)
    number = np.array([0, 1, -1, 2, -1, -1, -1, 3, -1])
    score = np.array([9.0, 9, 5, 9, 1, 4, 2, 9, 3])  # the prior's, from worst: rows 4, 6, 8, 5, 2
    own = [0, 1, 3, 7]
    for weight, expected in ((0.6, [2, 4, 8]), (0.4, [2, 4]), (0.05, []), (1.0, [2, 4, 5, 6, 8]), (0.2, [4])):
        mixed = replace(table, number=number, score=score, weight=np.where(number < 0, weight, 1.0))
        assert regression._rows(mixed).tolist() == sorted(own + expected)
    assert regression._rows(table).tolist() == list(range(9))
    ties = replace(table_of(60), number=np.full(60, -1), score=np.arange(60) % 3.0, weight=np.full(60, 0.5))
    order = sorted(range(60), key=lambda i: ties.score[i])
    assert regression._rows(ties).tolist() == sorted(order[i] for i in np.linspace(0, 59, 30).astype(int))


@pytest.mark.parametrize("stages", [1, 2])
def test_effects_are_differences_of_the_polynomial(stages, monkeypatch):
    """For known coefficients, effects and synergies are differences of the polynomial between blends."""
    table, rng = table_of(20, stages=stages), np.random.default_rng(0)
    count = sum(part.shape[1] for part in terms(table.blend))
    draws = rng.normal(size=(500, count))
    monkeypatch.setattr("dropopt.study.blend.effects.fit", lambda _: regression.Posterior(draws, 0.8))
    found = learn(replace(table, unit=2.5, trials=17))
    assert (found.names, found.trials, found.unit, found.matters) == (table.names, 17, 2.5, 0.8)
    assert found.needed == stages * (3 + 3 + 5)

    def at(stage: int, shares: np.ndarray) -> np.ndarray:
        blend = np.full((1, stages, 3), 1 / 3)
        blend[0, stage] = shares
        return draws @ np.concatenate(terms(blend), axis=1)[0]

    even, corner = np.full(3, 1 / 3), np.eye(3)
    couples = list(itertools.combinations(range(3), 2))
    for stage, names in enumerate(table.names):
        one = [at(stage, blend) for blend in corner]
        alone = [at(stage, (even + blend) / 2) - at(stage, even) for blend in corner]
        mixed = [at(stage, (corner[i] + corner[j]) / 2) - (one[i] + one[j]) / 2 for i, j in couples]
        for effects, samples, labels in (
            (found.methods[stage], np.array(alone), list(names)),
            (found.pairs[stage], np.array(mixed), [f"{names[i]} + {names[j]}" for i, j in couples]),
        ):
            assert [effect.name for effect in effects] == labels
            best = np.bincount(samples.argmax(axis=0), minlength=3) / 500
            for effect, sample, share in zip(effects, samples, best, strict=True):
                assert effect.mean == pytest.approx(sample.mean())
                assert (effect.low, effect.high) == pytest.approx(tuple(np.quantile(sample, [0.05, 0.95])))
                assert effect.best == pytest.approx(0.8 * share + 0.2 / 3)
    monkeypatch.setattr("dropopt.study.blend.effects.fit", lambda _: regression.Posterior(np.zeros((4, count)), 0.8))
    assert [effect.best for effect in learn(table).methods[0]] == pytest.approx([1 / 3] * 3)


def efficacy(*best: float, matters: float = 0.75, trials: int = 11) -> Efficacy:
    methods = tuple(Effect(name, 0.0, -1.0, 1.0, p) for name, p in zip("abc", best, strict=True))
    return Efficacy((("a", "b", "c"),), trials, 1.0, matters, (methods,), ((),), 11)


def test_verdicts_by_hand():
    """One sentence for each case, at and beside each threshold."""
    sure = "The blend matters (probability 0.75): "
    assert efficacy(0.05, 0.9, 0.05).verdict == sure + "b is best with probability 0.90."
    assert efficacy(0.1, 0.89, 0.01).verdict == sure + "best is one of b, a."
    assert efficacy(0.3, 0.2, 0.5).verdict == sure + "best is one of c, a, b."
    assert efficacy(0.06, 0.88, 0.06).verdict == sure + "b is best with probability 0.88."
    assert efficacy(0.05, 0.905, 0.2).verdict == sure + "b is best with probability 0.91."
    two = replace(efficacy(0.9, 0.05, 0.05), methods=efficacy(0.9, 0.05, 0.05).methods * 2)
    assert two.verdict == sure + "a is best with probability 0.90; a is best with probability 0.90."
    unclear = efficacy(0.9, 0.05, 0.05, matters=0.749)
    assert unclear.verdict == "No effect found: the blend matters with probability 0.75 after 11 trials."
    assert (unclear.claims, unclear.caution) == (False, " (but no effect was found)")
    thin = efficacy(0.9, 0.05, 0.05, trials=10)
    assert thin.verdict == "Too few trials: 10, and no claim about the blend is made with fewer than 11."
    assert (thin.claims, thin.caution) == (False, " (too few trials to rely on)")
    assert (efficacy(0.9, 0.05, 0.05).claims, efficacy(0.9, 0.05, 0.05).caution) == (True, "")
    signs = [Effect("a", 0.0, low, high, 0.5).sign for low, high in ((-1, 1), (0, 1), (0.1, 1), (-1, 0), (-1, -0.1))]
    assert signs == [0, 0, 1, 0, -1]


def test_methods_can_be_permuted():
    """Renaming the methods permutes their effects, up to the noise of the draws."""
    table, order = table_of(40), [2, 0, 1]
    first, second = learn(table), learn(replace(table, blend=table.blend[:, :, order]))
    assert second.matters == pytest.approx(first.matters, abs=0.02)
    for position, source in enumerate(order):
        one, other = first.methods[0][source], second.methods[0][position]
        assert other.mean == pytest.approx(one.mean, abs=0.03)
        assert other.best == pytest.approx(one.best, abs=0.05)


def test_shuffled_outcomes_give_no_claim():
    """With shuffled outcomes, no claim is made and no method is the best with high probability."""
    for seed in range(5):
        found = learn(gather(random_study(60, seed=seed, shuffle=True).trials, NAMES, maximise=False))
        assert found.verdict.startswith("No effect found")
        assert found.caution == " (but no effect was found)"
        assert max(effect.best for effect in found.methods[0]) < 0.65


def test_without_trials_every_method_is_equally_likely_the_best():
    """No claim is made then."""
    empty = learn(gather([], NAMES, maximise=False))
    assert empty.thin
    assert [effect.best for effect in empty.methods[0]] == pytest.approx([1 / 3] * 3)


def test_intervals_cover_the_truth():
    """If the model is correct, 90% intervals cover 83 to 97% of 110 true effects (in the benchmark: 85 to 95%).

    True effects are on the scale of scores: coefficients divided by the standard deviation of the outcome.
    """
    hits, even, corner = [], np.full(4, 0.25), np.eye(4)
    for seed in range(11):
        rng = np.random.default_rng(seed)
        blends = rng.dirichlet(np.ones(4), size=80)
        alone, together = rng.normal(size=4) * 0.4, rng.normal(size=6) * 0.25

        def at(blend, alone=alone, together=together):
            linear, pairs = scheffe(blend)
            return linear @ alone + pairs @ together

        score = normal_scores(at(blends) + rng.normal(size=80) * 0.6)
        none, number = np.zeros((80, 0)), np.arange(80, dtype=np.int64)
        names = (tuple(f"w_{i}" for i in range(4)),)
        found = learn(Evidence(names, blends[:, None], score, score, none, (), np.ones(80), number, 80))
        truth = [at((even + one) / 2) - at(even) for one in corner]
        truth += [at((one + two) / 2) - (at(one) + at(two)) / 2 for one, two in itertools.combinations(corner, 2)]
        scale = math.sqrt(np.var(at(np.random.default_rng(1).dirichlet(np.ones(4), size=4000))) + 0.36)
        effects = [*found.methods[0], *found.pairs[0]]
        hits += [one.low <= value / scale <= one.high for one, value in zip(effects, truth, strict=True)]
    assert 0.83 <= np.mean(hits) <= 0.97
