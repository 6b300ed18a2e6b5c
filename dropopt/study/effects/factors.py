"""Factors: what a study varied, read from its trials, and the conditions under which each factor is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.covariates import MAX_CATEGORIES
from dropopt.study.blend.gather import names_in
from dropopt.study.blend.mixture import blends_of, is_weight
from dropopt.study.blend.names import NoBlendError

#: The name of the factor that holds the weights of the methods.
BLEND = "blend"

#: Numbers with at most this many values are levels; with more, they are a continuous range.
MOST_LEVELS = 64


@dataclass(frozen=True)
class Condition:
    """A factor is used only where another factor, a choice, has one of these positions."""

    parent: int
    allowed: tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """A number, a choice or a blend that the study varied.

    Attributes:
        name: The parameter's name; ``blend``, or ``blend, early``, for the weights of a stage.
        kind: What it is.
        names: The names of its parameters.
        choices: The choices of a choice.
        low: The lower end of a number.
        high: The upper end of a number.
        log: Whether a number has a logarithmic range.
        levels: How many values a number can have; 0 for a continuous range.
        conditions: The conditions under which it is used, those of its parents included.
    """

    name: str
    kind: Literal["number", "choice", "blend"]
    names: tuple[str, ...]
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    levels: int = 0
    conditions: tuple[Condition, ...] = ()

    def value(self, position: float) -> float:
        """The value of a number at a position in [0, 1]."""
        if self.levels:
            index = min(int(position * self.levels), self.levels - 1)
            return self.low + index * (self.high - self.low) / (self.levels - 1)
        if self.log:
            return math.exp(math.log(self.low) + position * (math.log(self.high) - math.log(self.low)))
        return self.low + position * (self.high - self.low)

    def position(self, value: float) -> float:
        """The position in [0, 1] of a number's value; levels are in the middle of equal parts."""
        if self.log:
            fraction = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            fraction = (value - self.low) / (self.high - self.low)
        fraction = min(max(fraction, 0.0), 1.0)
        return (round(fraction * (self.levels - 1)) + 0.5) / self.levels if self.levels else fraction

    def to_levels(self, positions: Array) -> Array:
        """Positions (n,) in [0, 1] of a number, each moved to the middle of its level."""
        if not self.levels:
            return positions
        return np.asarray((np.minimum(np.floor(positions * self.levels), self.levels - 1) + 0.5) / self.levels)


@dataclass(frozen=True)
class Points:
    """Configurations as numbers.

    Attributes:
        values: For each factor, (n,) positions of a number in [0, 1] or of a choice among the choices, or (n, M) shares
            of a blend. Where the factor is not used, they have no meaning.
        active: (n, factors) whether the factor is used.
    """

    values: tuple[Array, ...]
    active: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.active)

    def take(self, rows: NDArray[Any]) -> Points:
        """These rows only."""
        return Points(tuple(value[rows] for value in self.values), self.active[rows])


def joined(parts: Sequence[Points]) -> Points:
    """The rows of all ``parts``."""
    columns = zip(*(part.values for part in parts), strict=True)
    return Points(tuple(np.concatenate(column) for column in columns), np.concatenate([part.active for part in parts]))


def activity(factors: Sequence[Factor], values: Sequence[Array]) -> NDArray[np.bool_]:
    """Which factors (n, factors) are used, given the positions of the choices."""
    active = np.ones((len(values[0]) if values else 0, len(factors)), dtype=bool)
    for index, factor in enumerate(factors):
        for condition in factor.conditions:
            active[:, index] &= np.isin(values[condition.parent].astype(int), condition.allowed)
    return active


def factors_of(trials: Sequence[FrozenTrial]) -> tuple[Factor, ...]:
    """The factors that ``trials`` varied, in the order of their first use.

    The ranges are those of the distributions in the trials. A parameter that is a number in some trials and a choice in
    others is what it is in the first. Conditions are inferred: a factor that some trials lack is used only for those
    values of other choices that occur together with it. A choice with more than MAX_CATEGORIES choices is an identifier
    or a file name and is left out.
    """
    blend = _blend_names(trials)
    weights = {name for stage in blend.values() for name in stage}
    found: dict[str, Factor] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if name not in weights:
                one = _single(name, distribution)
                known = found.get(name)
                found[name] = one if known is None else _united(known, one)
    found |= {name: Factor(name, "blend", names) for name, names in blend.items()}
    factors = [factor for factor in found.values() if _varies(factor)]
    return _with_conditions(factors, trials)


def points_of(trials: Sequence[FrozenTrial], factors: Sequence[Factor]) -> Points:
    """The configurations of ``trials``."""
    values: list[Array] = []
    active = np.array([[_uses(trial, factor) for factor in factors] for trial in trials], dtype=bool)
    active = active.reshape(len(trials), len(factors))
    for index, factor in enumerate(factors):
        if factor.kind == "blend":
            shares = blends_of([trial.params for trial in trials], (factor.names,))[:, 0]
            values.append(np.where(np.isfinite(shares), shares, 1 / len(factor.names)))
            continue
        number = {repr(choice): float(position) for position, choice in enumerate(factor.choices)}
        column = np.zeros(len(trials))
        for row in np.flatnonzero(active[:, index]).tolist():
            value = trials[row].params[factor.name]
            column[row] = number[repr(value)] if factor.kind == "choice" else factor.position(float(value))
        values.append(column)
    return Points(tuple(values), active)


def _uses(trial: FrozenTrial, factor: Factor) -> bool:
    """Whether a trial has a value of a factor. A number in place of a choice, or the reverse, is none."""
    if factor.kind == "blend":
        return any(is_weight(trial.params.get(name)) for name in factor.names)
    distribution = trial.distributions.get(factor.name)
    return distribution is not None and _kind(distribution) == factor.kind


def _kind(distribution: BaseDistribution) -> Literal["number", "choice"]:
    return "choice" if isinstance(distribution, CategoricalDistribution) else "number"


def _blend_names(trials: Sequence[FrozenTrial]) -> dict[str, tuple[str, ...]]:
    try:
        names = names_in(trials)
    except NoBlendError:
        return {}
    if len(names) == 1:
        return {BLEND: names[0]}
    return {f"{BLEND}, {stage[0].rsplit('_', 1)[-1]}": stage for stage in names}


def _single(name: str, distribution: BaseDistribution) -> Factor:
    if isinstance(distribution, CategoricalDistribution):
        return Factor(name, "choice", (name,), choices=distribution.choices)
    low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
    step, log = distribution.step, distribution.log  # type: ignore[attr-defined]
    levels = round((high - low) / step) + 1 if step and not log else 0
    return Factor(name, "number", (name,), low=low, high=high, log=log, levels=levels if levels <= MOST_LEVELS else 0)


def _united(first: Factor, other: Factor) -> Factor:
    """One factor for two distributions of a parameter: the union of choices, or the range that contains both."""
    if first == other:
        return first
    if first.kind != other.kind:
        return first
    if first.kind == "choice":
        more = tuple(c for c in other.choices if repr(c) not in {repr(known) for known in first.choices})
        return Factor(first.name, "choice", first.names, choices=first.choices + more)
    low, high, log = min(first.low, other.low), max(first.high, other.high), first.log and other.log
    return Factor(first.name, "number", first.names, low=low, high=high, log=log and low > 0)


def _varies(factor: Factor) -> bool:
    if factor.kind == "choice":
        return 2 <= len(factor.choices) <= MAX_CATEGORIES
    return factor.kind == "blend" or factor.high > factor.low


def _with_conditions(factors: Sequence[Factor], trials: Sequence[FrozenTrial]) -> tuple[Factor, ...]:
    uses = {factor.name: [_uses(trial, factor) for trial in trials] for factor in factors}
    direct: dict[int, dict[int, set[int]]] = {}
    for index, factor in enumerate(factors):
        used = uses[factor.name]
        if not all(used):
            direct[index] = _conditions(factors, index, trials, used)
    complete = []
    for index, factor in enumerate(factors):
        allowed = _closure(index, direct)
        conditions = tuple(Condition(parent, tuple(sorted(values))) for parent, values in sorted(allowed.items()))
        complete.append(replace(factor, conditions=conditions))
    return tuple(complete)


def _conditions(
    factors: Sequence[Factor], index: int, trials: Sequence[FrozenTrial], used: Sequence[bool]
) -> dict[int, set[int]]:
    """The fewest conditions on choices that hold in all trials with the factor and in none of those without it.

    Returns no condition if there is none; the factor is then taken to be used everywhere.
    """
    rejected: dict[int, set[int]] = {}  # by choice, the trials without the factor that a condition on it explains
    allowed: dict[int, set[int]] = {}
    for other, factor in enumerate(factors):
        if factor.kind != "choice" or other == index:
            continue
        number = {repr(choice): position for position, choice in enumerate(factor.choices)}
        at = [number.get(repr(trial.params.get(factor.name, trial))) for trial in trials]
        values = {at[row] for row in range(len(trials)) if used[row]}
        if None not in values:
            allowed[other] = {value for value in values if value is not None}
            rejected[other] = {row for row in range(len(trials)) if not used[row] and at[row] not in values}
    left = {row for row in range(len(trials)) if not used[row]}
    chosen: dict[int, set[int]] = {}
    while left:
        best = max(rejected, key=lambda other: len(rejected[other] & left), default=None)
        if best is None or not rejected[best] & left:
            return {}
        chosen[best] = allowed[best]
        left -= rejected[best]
    return chosen


def _closure(
    index: int, direct: Mapping[int, Mapping[int, set[int]]], seen: tuple[int, ...] = ()
) -> dict[int, set[int]]:
    """The conditions of a factor and of its parents, their parents and so on."""
    found = {parent: set(values) for parent, values in direct.get(index, {}).items()}
    for parent in list(found):
        if parent not in (*seen, index):
            for other, values in _closure(parent, direct, (*seen, index)).items():
                found[other] = found.get(other, values) & values
    return found
