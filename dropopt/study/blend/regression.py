"""Bayesian regression of scores on Scheffe's polynomial, averaged over prior scales.

For each of several prior scales s of the coefficients, with features x scaled by s,

    z = x beta + noise,   beta ~ N(0, I / lambda),   noise ~ N(0, 1 / alpha),

is fitted by scikit-learn's BayesianRidge, which maximises the marginal likelihood over alpha and lambda (MacKay 1992).
BayesianRidge has one prior scale for all coefficients; scaling the features gives each group of terms its own.
The fits are averaged by marginal likelihood. Two of the scales have no blend: their weight is the probability that
the blend does not matter.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from dropopt.study.blend.arrays import Array, Indices
from dropopt.study.blend.evidence import PRIOR_ROW, Evidence
from dropopt.study.blend.mixture import STAGE_FRACTION, scheffe


@dataclass(frozen=True)
class PriorScales:
    """Prior standard deviations of three groups of coefficients."""

    linear: float
    pairs: float
    covariates: float

    @property
    def without_blend(self) -> bool:
        """Whether the blend has no effect under this prior."""
        return self.linear <= NO_EFFECT


#: Prior scale of terms without an effect: small, not zero, so that one code path serves all.
NO_EFFECT = 1e-4
#: The prior scales that are averaged.
SCALES = (
    *(PriorScales(NO_EFFECT, NO_EFFECT, c) for c in (0.1, 0.5)),
    *(PriorScales(b, b * p, c) for b in (0.3, 1.0) for p in (0.3, 1.0) for c in (0.1, 0.5)),
)
#: Prior probability that the blend matters.
PRIOR_PROBABILITY = 0.5
#: Smallest relative likelihood of a scale.
SMALLEST = 1e-12
#: Posterior draws, all scales together.
DRAWS = 4000
#: Factor by which intervals are widened for the uncertainty of the scale; measured coverage is then 85 to 95%.
WIDENING = 1.08
#: Rows below which nothing is fitted.
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Posterior:
    """Draws (draws, terms) of the blend's coefficients given that it matters, and the probability that it does."""

    draws: Array
    matters: float


def fit(table: Evidence) -> Posterior:
    """The posterior of the coefficients of :func:`terms`; the prior probability and zeros if there are too few rows."""
    linear, pairs = terms(table.blend)
    if len(table) < FEWEST_ROWS or not table.score.std() > 0:
        return Posterior(np.zeros((1, linear.shape[1] + pairs.shape[1])), PRIOR_PROBABILITY)
    rows = _rows(table)
    linear, pairs, score = linear[rows], pairs[rows], table.score[rows]
    others = table.standardised[rows]
    others = np.concatenate([others, (others**2 - 1) / math.sqrt(2)], axis=1)  # Hermite polynomials of degree 1 and 2
    fits = [_fit(linear, pairs, others, score, scales) for scales in SCALES]
    # Posterior probability of each scale: prior times marginal likelihood, normalised.
    logs = np.array([one.log_evidence for one in fits])
    null = np.array([scales.without_blend for scales in SCALES])
    weight = np.maximum(np.exp(logs - logs.max()), SMALLEST)
    weight *= np.where(null, (1 - PRIOR_PROBABILITY) / null.sum(), PRIOR_PROBABILITY / (~null).sum())
    weight /= weight.sum()
    matters = float(weight[~null].sum())
    # Draws are conditional on an effect: mixing in a spike at zero would shorten the intervals of small true effects.
    counts = np.round(np.where(null, 0.0, weight) / matters * DRAWS).astype(int)
    rng = np.random.default_rng(len(rows))
    return Posterior(np.concatenate([one.draw(n, rng) for one, n in zip(fits, counts, strict=True) if n]), matters)


def terms(blend: Array) -> tuple[Array, Array]:
    """Linear and pair terms (n, terms) of blends (n, S, M).

    With several stages, the terms are the means over stages, followed by the terms of each stage. Their scales split
    the prior variance into a common part, 1 - STAGE_FRACTION, and a part of each stage's own, STAGE_FRACTION.
    """
    parts = []
    for term in scheffe(blend):
        n, stages, count = term.shape
        own = term * math.sqrt(STAGE_FRACTION) / stages
        common = term.mean(axis=1) * math.sqrt(1 - STAGE_FRACTION if stages > 1 else 1)
        parts.append(np.concatenate([common, own.reshape(n, stages * count)], axis=1) if stages > 1 else common)
    return parts[0], parts[1]


def _rows(table: Evidence) -> Indices:
    """The study's own rows, and as many of a prior's rows as its total weight, evenly spread from worst to best."""
    own, prior = np.flatnonzero(table.number != PRIOR_ROW), np.flatnonzero(table.number == PRIOR_ROW)
    count = round(float(table.weight[prior].sum()))
    if not len(prior) or not count:
        return own
    ordered = prior[np.argsort(table.score[prior], kind="stable")]
    return np.sort(np.concatenate([own, ordered[np.linspace(0, len(ordered) - 1, count).astype(int)]]))


@dataclass(frozen=True)
class _Fit:
    """The posterior of the blend's coefficients under one prior: Student's t with these parameters."""

    centre: Array
    covariance: Array
    freedom: float
    log_evidence: float

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Draws (count, terms): centre + sqrt(freedom / chi^2_freedom) * N(0, covariance), widened.

        Student's t accounts for the uncertainty of the noise, of which BayesianRidge gives a point estimate.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        tail = np.sqrt(self.freedom / rng.chisquare(self.freedom, size=(count, 1)))
        return np.asarray(self.centre + WIDENING * tail * (rng.normal(size=(count, len(self.centre))) @ root.T))


def _fit(linear: Array, pairs: Array, others: Array, score: Array, scales: PriorScales) -> _Fit:
    from sklearn.linear_model import BayesianRidge  # takes a second to import

    groups = [group * scale for group, scale in zip((linear, pairs, others), astuple(scales), strict=True)]
    model = BayesianRidge(lambda_1=1.0, lambda_2=1.0, alpha_1=1.0, alpha_2=0.3, compute_score=True)
    model.fit(np.concatenate(groups, axis=1), score)
    size = linear.shape[1] + pairs.shape[1]
    scale = np.repeat([scales.linear, scales.pairs], [linear.shape[1], pairs.shape[1]])
    covariance = model.sigma_[:size, :size] * np.outer(scale, scale)
    # Effective number of parameters (MacKay 1992): gamma = p - lambda tr(Sigma).
    effective = len(model.coef_) - float(model.lambda_) * float(np.trace(model.sigma_))
    freedom = max(len(score) - effective - 1, 2.0)
    return _Fit(model.coef_[:size] * scale, covariance, freedom, float(model.scores_[-1]))
