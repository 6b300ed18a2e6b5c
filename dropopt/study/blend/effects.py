"""Which blend of methods works: a model for mixtures, read out as effects with credible intervals.

Scheffe's quadratic polynomial (Scheffe 1958; Cornell, "Experiments with Mixtures") on the simplex,
y = sum_m beta_m w_m + sum_{m<n} beta_mn w_m w_n, with the other parameters as covariates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: The names of a blend's shares, one tuple for each stage of training (a single one when stages share it).
Names = tuple[tuple[str, ...], ...]

#: Share of the blend's prior variance that belongs to one stage alone: the rest is pooled over stages.
STAGE_SHARE = 0.25


@dataclass(frozen=True)
class Evidence:
    """The table. ``blend`` (n, stages, methods), ``score`` and ``value`` (n,), ``covariates`` (n, columns)."""

    names: Names
    blend: Array
    score: Array  # normal scores, higher is better
    value: Array  # the outcome itself, higher is better, standardised and its bad tail cut
    covariates: Array  # raw numbers, logarithms where the search was logarithmic; NaN where absent
    columns: tuple[str, ...]
    weight: Array  # 1 for a trial of this study, less for one of a prior
    number: NDArray[np.int64]  # trial numbers, -1 for a prior's rows
    trials: int  # of this study, those included that the table leaves out
    unit: float = math.nan  # one normal score is about this much of the outcome

    def __len__(self) -> int:
        return len(self.score)

    @cached_property
    def standardised(self) -> Array:
        """Covariates with mean 0 and deviation 1, absent ones at the mean; constant columns are left out."""
        if not self.covariates.size:
            return np.zeros((len(self), 0))
        values = np.clip(self._centred(self.covariates), -4.0, 4.0)
        return np.asarray(values[:, self._varies])

    def standardise(self, values: Mapping[str, float]) -> Array:
        """One row for ``values`` on the scale of :attr:`standardised`; what is not given sits at the mean."""
        if not self.covariates.size:
            return np.zeros(0)
        row = np.array([[values.get(column, math.nan) for column in self.columns]])
        return np.asarray(np.clip(self._centred(row), -4.0, 4.0)[0, self._varies])

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        present = np.isfinite(self.covariates)
        count = np.maximum(present.sum(axis=0), 1)
        filled = np.where(present, self.covariates, 0.0)
        mean = filled.sum(axis=0) / count
        spread = np.sqrt((np.where(present, filled - mean, 0.0) ** 2).sum(axis=0) / count)
        return mean, spread

    @property
    def _varies(self) -> NDArray[np.bool_]:
        mean, spread = self._moments
        return np.asarray(spread > 1e-9 * (1.0 + np.abs(mean)))

    def _centred(self, values: Array) -> Array:
        mean, spread = self._moments
        scaled = (values - mean) / np.where(self._varies, spread, 1.0)
        return np.where(np.isfinite(scaled), scaled, 0.0)

    def take(self, rows: NDArray[Any]) -> Evidence:
        """The same table with these rows only."""
        parts = {
            part: getattr(self, part)[rows] for part in ("blend", "score", "value", "covariates", "weight", "number")
        }
        return replace(self, **parts)


def shares_of(values: Array) -> Array:
    """Values divided by their sum along the last axis; an even blend where all are zero."""
    total = values.sum(axis=-1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), 1 / values.shape[-1])


def scheffe(shares: Array) -> tuple[Array, Array]:
    """Linear (..., M) and pair (..., M(M-1)/2) terms, each with mean 0 and deviation 1 over the simplex."""
    m = shares.shape[-1]
    first, second = np.triu_indices(m, 1)
    linear = (shares - 1 / m) / math.sqrt((m - 1) / (m * m * (m + 1)))
    mean = 1 / (m * (m + 1))
    deviation = math.sqrt(max(4 / (m * (m + 1) * (m + 2) * (m + 3)) - mean**2, 1e-12))
    return linear, (shares[..., first] * shares[..., second] - mean) / deviation


# -- the readable model

#: Prior scales of blend, pairs and covariates that are averaged; the first two have no blend: nothing to find.
SCALES = (
    *((1e-4, 1e-4, c) for c in (0.1, 0.5)),
    *((b, b * p, c) for b in (0.3, 1.0) for p in (0.3, 1.0) for c in (0.1, 0.5)),
)
DRAWS = 4000
#: Intervals are widened by this, for the scale's own uncertainty: so measured coverage is 85 to 95%.
WIDTH = 1.08
#: Below this probability that the blend matters at all, nothing is claimed.
MATTERS = 0.75


@dataclass(frozen=True)
class Effect:
    """A change of the outcome in normal scores (higher is better) with its 90% credible interval."""

    name: str
    mean: float
    low: float
    high: float
    best: float  # probability that it is the largest of its kind and stage; even where nothing matters

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval says so, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class Efficacy:
    """What the polynomial has learned.

    A method's effect: the equal blend moved half way to the method alone. A pair's synergy: half and half against
    the mean of each alone (a quarter of beta_mn). With stages, one stage changes and the others stay.
    """

    names: Names
    trials: int
    unit: float  # one normal score is about this much of the outcome
    matters: float  # probability that the blend matters at all
    methods: tuple[tuple[Effect, ...], ...]  # by stage
    pairs: tuple[tuple[Effect, ...], ...]
    needed: int  # trials below which the evidence is too thin

    @property
    def thin(self) -> bool:
        """Fewer trials than the polynomial has terms, and a few to spare."""
        return self.trials < self.needed

    @property
    def claims(self) -> bool:
        """Whether anything is claimed at all."""
        return not self.thin and self.matters >= MATTERS

    @property
    def caution(self) -> str:
        """What stands behind a preferred blend where nothing is claimed of it."""
        return "" if self.claims else " (too thin to rely on)" if self.thin else " (but nothing was found)"

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        if self.thin:
            return f"Too thin: {self.trials} trials, and no claim is made with fewer than {self.needed}."
        if not self.claims:
            return f"Nothing found: the blend matters with probability {self.matters:.2f} after {self.trials} trials."
        found = []
        for stage in self.methods:
            first = max(stage, key=lambda effect: effect.best)
            close = [effect.name for effect in sorted(stage, key=lambda e: -e.best) if effect.best >= 0.1]
            if first.best >= 0.9 or len(close) == 1:
                found.append(f"{first.name} is best with probability {first.best:.2f}")
            else:
                found.append(f"best is one of {', '.join(close)}")
        return f"The blend matters (probability {self.matters:.2f}): " + "; ".join(found) + "."


def needed_trials(names: Names) -> int:
    """One trial for each term of the polynomial and five to judge the noise by, for each stage."""
    m = len(names[0])
    return len(names) * (m + m * (m - 1) // 2 + 5)


def learn(table: Evidence) -> Efficacy:
    """Fit the polynomial to ``table`` and read it out; a pure function of the evidence."""
    stages, methods = table.blend.shape[1:]
    contrasts = _contrasts(stages, methods)
    count = methods + methods * (methods - 1) // 2
    draws, matters = np.zeros((1, contrasts.shape[1])), 0.5
    if len(table) >= 4 and table.score.std() > 0:
        draws, matters = _posterior(table)
    samples = (draws @ contrasts.T).reshape(len(draws), stages, count)
    pairs = list(zip(*np.triu_indices(methods, 1), strict=True))
    return Efficacy(
        table.names,
        table.trials,
        table.unit,
        matters,
        tuple(_effects(samples[:, s, :methods], names, matters) for s, names in enumerate(table.names)),
        tuple(
            _effects(samples[:, s, methods:], [f"{names[i]} + {names[j]}" for i, j in pairs], matters)
            for s, names in enumerate(table.names)
        ),
        needed_trials(table.names),
    )


def _effects(samples: Array, names: Sequence[str], matters: float) -> tuple[Effect, ...]:
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    top = samples == samples.max(axis=1, keepdims=True)
    best = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    best = matters * best + (1 - matters) / len(names)
    mean = samples.mean(axis=0)
    return tuple(
        Effect(name, float(mean[i]), float(low[i]), float(high[i]), float(best[i])) for i, name in enumerate(names)
    )


def _terms(blend: Array) -> tuple[Array, Array]:
    """Linear and pair terms of (n, stages, methods): means over stages, then each stage's own, shrunk more."""
    parts = []
    for term in scheffe(blend):
        stages = term.shape[1]
        own = term * math.sqrt(STAGE_SHARE) / stages
        common = term.mean(axis=1) * math.sqrt(1 - STAGE_SHARE if stages > 1 else 1)
        parts.append(np.concatenate([common, own.reshape(len(term), -1)], axis=1) if stages > 1 else common)
    return parts[0], parts[1]


def _contrasts(stages: int, methods: int) -> Array:
    """(stages * effects, terms) differences of terms whose product with the coefficients is an effect."""
    even = np.full(methods, 1 / methods)
    alone = np.eye(methods)
    rows = []
    for stage in range(stages):

        def at(blend: Array, stage: int = stage) -> Array:
            whole = np.tile(even, (stages, 1))
            whole[stage] = blend
            return np.asarray(np.concatenate(_terms(whole[None]), axis=1)[0])

        rows += [at((even + alone[i]) / 2) - at(even) for i in range(methods)]
        rows += [
            at((alone[i] + alone[j]) / 2) - (at(alone[i]) + at(alone[j])) / 2
            for i, j in zip(*np.triu_indices(methods, 1), strict=True)
        ]
    return np.array(rows)


def _posterior(table: Evidence) -> tuple[Array, float]:
    """Draws of the blend's coefficients (draws, terms), and the probability that the blend matters.

    scikit-learn's BayesianRidge has one prior scale for all coefficients, so the terms come in groups of different
    scale and fits are averaged by marginal likelihood; Student's t makes up for its point estimate of the noise.
    """
    rows = _rows(table)
    linear, pairs = _terms(table.blend[rows])
    others = table.standardised[rows]
    others = np.concatenate([others, (others**2 - 1) / math.sqrt(2)], axis=1)
    fits = [_fit(linear, pairs, others, table.score[rows], scales) for scales in SCALES]
    logs = np.array([log for _, log in fits])
    null = np.array([scales[0] < 1e-3 for scales in SCALES])
    weight = np.maximum(np.exp(logs - logs.max()), 1e-12)
    weight *= np.where(null, 0.5 / null.sum(), 0.5 / (~null).sum())
    weight /= weight.sum()
    matters = float(weight[~null].sum())
    # Intervals are conditional on there being something: a spike at zero would cut off small true effects.
    counts = np.round(np.where(null, 0.0, weight) / matters * DRAWS).astype(int)
    rng = np.random.default_rng(len(rows))
    parts = [_draws(fit, many, rng) for (fit, _), many in zip(fits, counts, strict=True) if many]
    return np.concatenate(parts), matters


def _rows(table: Evidence) -> NDArray[np.int64]:
    """The study's own rows, and as many of a prior's as it is worth, from its best to its worst."""
    own, prior = np.flatnonzero(table.number >= 0), np.flatnonzero(table.number < 0)
    worth = round(float(table.weight[prior].sum()))
    if not len(prior) or not worth:
        return own
    ordered = prior[np.argsort(table.score[prior], kind="stable")]
    return np.sort(np.concatenate([own, ordered[np.linspace(0, len(ordered) - 1, worth).astype(int)]]))


#: Centre and covariance of the blend's coefficients, and degrees of freedom.
_Fit = tuple[Array, Array, float]


def _fit(
    linear: Array, pairs: Array, others: Array, score: Array, scales: tuple[float, float, float]
) -> tuple[_Fit, float]:
    """One ridge whose groups of terms have these prior scales, and its log marginal likelihood."""
    from sklearn.linear_model import BayesianRidge  # a second to import: only where effects are read

    groups = [group * scale for group, scale in zip((linear, pairs, others), scales, strict=True)]
    model = BayesianRidge(lambda_1=1.0, lambda_2=1.0, alpha_1=1.0, alpha_2=0.3, compute_score=True)
    model.fit(np.concatenate(groups, axis=1), score)
    size = linear.shape[1] + pairs.shape[1]
    scale = np.repeat(scales[:2], [linear.shape[1], pairs.shape[1]])
    effective = len(model.coef_) - float(model.lambda_) * float(np.trace(model.sigma_))
    covariance = model.sigma_[:size, :size] * np.outer(scale, scale)
    return (model.coef_[:size] * scale, covariance, max(len(score) - effective - 1, 2.0)), float(model.scores_[-1])


def _draws(fit: _Fit, count: int, rng: np.random.Generator) -> Array:
    centre, covariance, freedom = fit
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    tail = np.sqrt(freedom / rng.chisquare(freedom, size=(count, 1)))
    return np.asarray(centre + WIDTH * tail * (rng.normal(size=(count, len(centre))) @ root.T))
