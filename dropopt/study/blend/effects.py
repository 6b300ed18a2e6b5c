"""Effects of methods and synergies of pairs, as contrasts of Scheffe's polynomial, with credible intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dropopt.numbers import quantity
from dropopt.study.blend.arrays import Array
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.names import Names
from dropopt.study.blend.regression import fit, terms

#: Nothing is claimed while the probability that the blend matters is lower.
MATTERS = 0.75
#: Quantiles of a 90% credible interval.
INTERVAL = (0.05, 0.95)
#: A method with this probability of being the best is reported as the best.
CERTAIN = 0.9
#: Methods with at least this probability of being the best are reported as candidates.
CANDIDATE = 0.1
#: Trials for each stage beyond the number of terms, to estimate the noise.
SPARE_TRIALS = 5


@dataclass(frozen=True)
class Effect:
    """A change of the outcome in normal scores (higher is better), with its 90% credible interval.

    ``best`` is the probability that the effect is the largest of its kind in its stage. If the blend does not
    matter, all are equally likely.
    """

    name: str
    mean: float
    low: float
    high: float
    best: float

    @property
    def sign(self) -> int:
        """+1 or -1 if the interval excludes 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class Efficacy:
    """The effects that the evidence supports.

    Attributes:
        names: Parameter names of the blend, by stage.
        trials: Number of trials of the study that count.
        unit: How much of the outcome one normal score is, approximately.
        matters: Probability that the blend matters at all.
        methods: By stage, the effect of each method: the change from the equal blend to the midpoint between it and the
            method alone.
        pairs: By stage, the synergy of each pair: the half-and-half blend minus the mean of the two methods alone
            (beta_mk / 4).
        needed: Number of trials below which no claim is made.

    With several stages, an effect changes one stage and leaves the others at the equal blend.
    """

    names: Names
    trials: int
    unit: float
    matters: float
    methods: tuple[tuple[Effect, ...], ...]
    pairs: tuple[tuple[Effect, ...], ...]
    needed: int

    @property
    def thin(self) -> bool:
        """Whether there are too few trials for any claim."""
        return self.trials < self.needed

    @property
    def claims(self) -> bool:
        """Whether any claim is made."""
        return not self.thin and self.matters >= MATTERS

    @property
    def caution(self) -> str:
        """A remark to append to a preferred blend if no claim is made."""
        return "" if self.claims else " (too few trials to rely on)" if self.thin else " (but no effect was found)"

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if self.thin:
            return f"Too few trials: {self.trials}, and no claim about the blend is made with fewer than {self.needed}."
        if not self.claims:
            after = quantity(self.trials, "trial")
            return f"No effect found: the blend matters with probability {self.matters:.2f} after {after}."
        found = []
        for stage in self.methods:
            first = max(stage, key=lambda effect: effect.best)
            close = [effect.name for effect in sorted(stage, key=lambda e: -e.best) if effect.best >= CANDIDATE]
            if first.best >= CERTAIN or len(close) == 1:
                found.append(f"{first.name} is best with probability {first.best:.2f}")
            else:
                found.append(f"best is one of {', '.join(close)}")
        return f"The blend matters (probability {self.matters:.2f}): " + "; ".join(found) + "."


def needed_trials(names: Names) -> int:
    """One trial for each term of the polynomial, and a few to estimate the noise, for each stage."""
    m = len(names[0])
    return len(names) * (m + m * (m - 1) // 2 + SPARE_TRIALS)


def learn(table: Evidence) -> Efficacy:
    """Fit Scheffe's polynomial to ``table`` and compute the effects; a pure function of the table."""
    stages, methods = table.blend.shape[1:]
    posterior = fit(table)
    contrasts = _contrasts(stages, methods)
    samples = (posterior.draws @ contrasts.T).reshape(len(posterior.draws), stages, -1)
    pairs = [[f"{names[i]} + {names[j]}" for i, j in _pairs(methods)] for names in table.names]
    return Efficacy(
        names=table.names,
        trials=table.trials,
        unit=table.unit,
        matters=posterior.matters,
        methods=tuple(
            _effects(samples[:, s, :methods], names, posterior.matters) for s, names in enumerate(table.names)
        ),
        pairs=tuple(_effects(samples[:, s, methods:], names, posterior.matters) for s, names in enumerate(pairs)),
        needed=needed_trials(table.names),
    )


def _effects(samples: Array, names: Sequence[str], matters: float) -> tuple[Effect, ...]:
    """Means, intervals and probabilities of being the largest, from samples (draws, effects)."""
    low, high = np.quantile(samples, INTERVAL, axis=0)
    mean = samples.mean(axis=0)
    # P(best) = P(matters) P(best | matters) + (1 - P(matters)) / number of effects
    top = samples == samples.max(axis=1, keepdims=True)
    best = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    best = matters * best + (1 - matters) / len(names)
    return tuple(
        Effect(name, float(mean[i]), float(low[i]), float(high[i]), float(best[i])) for i, name in enumerate(names)
    )


def _contrasts(stages: int, methods: int) -> Array:
    """Contrasts (stages * effects, terms): their product with the coefficients is the effects.

    With x(w) the terms of a blend, e the equal blend and m, k the vertices of two methods, at one stage:

        effect of m        x((e + m) / 2) - x(e)
        synergy of m, k    x((m + k) / 2) - (x(m) + x(k)) / 2
    """
    equal, vertex = np.full(methods, 1 / methods), np.eye(methods)

    def at(stage: int, shares: Array) -> Array:
        blend = np.tile(equal, (stages, 1))
        blend[stage] = shares
        return np.asarray(np.concatenate(terms(blend[None]), axis=1)[0])

    rows = []
    for s in range(stages):
        rows += [at(s, (equal + vertex[i]) / 2) - at(s, equal) for i in range(methods)]
        rows += [
            at(s, (vertex[i] + vertex[j]) / 2) - (at(s, vertex[i]) + at(s, vertex[j])) / 2 for i, j in _pairs(methods)
        ]
    return np.array(rows)


def _pairs(methods: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(methods) for j in range(i + 1, methods)]
