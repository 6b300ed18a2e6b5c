"""The answers in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dropopt.numbers import short
from dropopt.study.blend.effects import CANDIDATE, CERTAIN
from dropopt.study.effects.factors import Factor
from dropopt.study.effects.importance import Importance
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.objective import Objective
from dropopt.study.effects.profiles import Level, Profile
from dropopt.study.effects.questions import QUESTIONS, Question, factors_for, turns_off
from dropopt.study.store.keys import APPLIED

#: A study with this many times the trials is the largest that is suggested.
MOST_TIMES = 8
#: Costs of other choices that a sentence lists.
LISTED = 3
#: Costs that may reach this multiple of the objective are written as factors.
FACTORS = 5.0
#: Importances whose upper limit is lower are negligible.
NEGLIGIBLE = 0.02
#: A share of the variance of single trainings, noise included, from whose lower limit on a factor matters.
MATTERS = 0.05
#: Such a share whose lower limit is below this touches 0: nothing is claimed about the factor.
TOUCHES = 0.005

#: What the settings are called in a sentence.
_NAMES = {
    APPLIED: "an applied rate (mean over places and epochs)",
    "r0": "a rate (r0)",
    "p": "a rate (p)",
    "alpha": "alpha",
    "sites": "sites",
    "block_size": "a block_size",
}


@dataclass(frozen=True)
class FactorEffect:
    """What is known about one factor: its importance, and its levels with their costs."""

    factor: Factor
    importance: Importance
    profile: Profile

    @property
    def name(self) -> str:
        """The name of the factor."""
        return self.factor.name


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: The question.
        text: The answer, in sentences.
        found: Whether the evidence supports a claim.
    """

    question: Question
    text: str
    found: bool

    @property
    def title(self) -> str:
        """The question as people ask it."""
        return QUESTIONS[self.question]


class Writer:
    """Writes the answers from the effects of a study."""

    def __init__(
        self,
        factors: Sequence[Factor],
        effects: Mapping[str, FactorEffect],
        *,
        trials: int,
        needed: int,
        ratio: bool,
        objective: Objective,
        applied: FactorEffect | None = None,
    ) -> None:
        self._factors, self._effects, self._applied = factors, effects, applied
        self._objective = objective
        self._trials, self._needed, self._ratio = trials, needed, ratio

    def answers(self) -> tuple[Answer, ...]:
        """The answers to the five questions."""
        return tuple(self._whether() if question == "whether" else self._answer(question) for question in QUESTIONS)

    def _answer(self, question: Question) -> Answer:
        positions = factors_for(question, self._factors)
        if not positions:
            return Answer(question, "Not searched in this study.", False)
        if self._trials < self._needed:
            return Answer(question, self._thin(), False)
        found, silent = [], []
        effects = [self._effects[self._factors[position].name] for position in positions]
        if question == "how much" and self._applied is not None:
            effects.insert(1, self._applied)
        for effect in effects:
            claim = self._claim(question, effect) or self._on_average(effect)
            if claim:
                found.append(claim)
            else:
                silent.append(effect)
        text = [_sentence(claim) for claim in [*found, *self._nothing(silent)]]
        return Answer(question, " ".join(text), bool(found))

    def _thin(self) -> str:
        more = self._needed - self._trials
        return (
            f"Too few trials to say: {self._trials}, and no claim is made with fewer than {self._needed} ({more} more)."
        )

    # -- one factor

    def _claim(self, question: Question, effect: FactorEffect) -> str:
        """What the evidence says about a factor; empty if the interval of its importance touches 0."""
        if effect.importance.noisy.low < TOUCHES:
            return ""
        if effect.factor.kind == "number":
            return self._number(question, effect)
        first = max(effect.profile.levels, key=lambda level: level.chance)
        worse = [level for level in effect.profile.levels if level.best.low > 0]
        if not worse:
            return ""
        worse.sort(key=lambda level: level.best.value)
        costs = self._costs([(_label(level), level.best) for level in worse], ", ")
        candidates = [level for level in effect.profile.levels if level.chance >= CANDIDATE and level not in worse]
        if first.chance >= CERTAIN or len(candidates) < 2:
            return f"{effect.name}: {_label(first)} is best (probability {first.chance:.2f}); {costs}"
        candidates.sort(key=lambda level: -level.chance)
        names = ", ".join(f"{_label(level)} ({level.chance:.2f})" for level in candidates)
        return f"{effect.name}: the best is one of {names} (probability); {costs}"

    def _number(self, question: Question, effect: FactorEffect) -> str:
        profile, optimum = effect.profile, effect.profile.optimum
        ends = [level for level in (profile.levels[0], profile.levels[-1]) if level.best.low > 0]
        if optimum is None or not ends:
            return ""
        called = _NAMES.get(effect.name, f"{effect.name}: a value")
        where = f"{short(optimum.value)} (90%: {short(optimum.low)} to {short(optimum.high)})"
        costs = " and ".join(f"{level.label} costs {self.cost(level.best)}" for level in ends)
        meaning = self._direction(question, profile.negative) if effect.name == "alpha" else ""
        return f"{called} of {where} is best; {costs}{meaning}"

    def _on_average(self, effect: FactorEffect) -> str:
        """What is worse on average over the other settings, though it may not be at their best; empty if nothing is."""
        if effect.importance.noisy.low < MATTERS:
            return ""
        levels = effect.profile.levels
        compared = (levels[0], levels[-1]) if effect.factor.kind == "number" else levels
        worse = [level for level in compared if level.average.low > 0]
        if not worse:
            return ""
        best = min(levels, key=lambda level: level.average.value)
        costs = self._costs([(_label(level), level.average) for level in worse], " and " if len(worse) == 2 else ", ")
        more = self._more([level.best for level in levels])
        name = "Applied rate" if effect.name == APPLIED else effect.name
        return (
            f"{name}: on average over the other settings, {costs} compared with {_label(best)}; "
            f"which value is best is not known ({more})"
        )

    def _direction(self, question: Question, negative: float) -> str:
        along = "with depth" if question == "where" else "during training"
        if negative >= CERTAIN:
            return f", so the rate should rise {along} (probability {negative:.2f})"
        if negative <= 1 - CERTAIN:
            return f", so the rate should fall {along}, or stay constant (probability {1 - negative:.2f})"
        return f"; whether the rate should rise or fall {along} is not known (rise: probability {negative:.2f})"

    def _nothing(self, effects: Sequence[FactorEffect]) -> Iterator[str]:
        """What to say of factors without a claim, and how many more trials might tell."""
        called = {effect.name: "the applied rate" if effect.name == APPLIED else effect.name for effect in effects}
        negligible = [effect.name for effect in effects if effect.importance.total.high < NEGLIGIBLE]
        more = {one.name: self._more([level.best for level in one.profile.levels]) for one in effects}
        matter = [one.name for one in effects if one.importance.noisy.low >= MATTERS]
        if matter:
            yield f"Not known: {', '.join(f'the best value of {called[name]} ({more[name]})' for name in matter)}"
        if unknown := [one.name for one in effects if one.name not in [*negligible, *matter]]:
            yield f"no effect was found of {', '.join(f'{called[name]} ({more[name]})' for name in unknown)}"
        if negligible:
            names = ", ".join(called[name] for name in negligible)
            yield f"{names}: hardly matter{'' if len(negligible) > 1 else 's'}"

    def _more(self, estimates: Sequence[Estimate]) -> str:
        """How many more trials might separate the best level from some other: intervals shrink as 1 / sqrt(trials)."""
        ratios = [
            (estimate.value - estimate.low) / estimate.value
            for estimate in estimates
            if estimate.value > 0 and estimate.low < estimate.value
        ]
        times = min(ratios, default=math.inf) ** 2
        if times > MOST_TIMES:
            return f"more than {10 * (self._trials * (MOST_TIMES - 1) // 10)} more trials would be needed"
        more = max(10, 10 * math.ceil(self._trials * (times - 1) / 10))
        return f"about {more} more trials might tell"

    # -- whether

    def _whether(self) -> Answer:
        question: Question = "whether"
        options = [factor.name for factor in self._factors if turns_off(factor)]
        if not options:
            return Answer(question, "The search space has no configuration without dropout, or nothing else.", False)
        if self._trials < self._needed:
            return Answer(question, self._thin(), False)
        known = (self._effects[name].profile.without for name in options)
        estimate = min((one for one in known if one is not None), key=lambda one: one.value)
        if estimate.low > 0:
            return Answer(question, f"Dropout helps: without it, {self._changed(estimate, better=False)}.", True)
        if estimate.high < 0:
            gain = f"without it, {self._changed(_negated(estimate), better=True)}"
            return Answer(question, f"Dropout does not help here: {gain}.", True)
        about = self._objective if self._ratio else self._objective.in_units()
        change = _negated(estimate) if about.maximise else estimate
        text = f"the change of {about.called} is {self.amount(change.value)} ({self._range(change)})"
        more = self._more([estimate if estimate.value > 0 else _negated(estimate)])
        return Answer(question, f"Not known: without dropout, {text}; {more}.", False)

    def _changed(self, estimate: Estimate, *, better: bool) -> str:
        return self._objective.change(self.cost(estimate), better=better, ratio=self._ratio)

    # -- numbers

    def _costs(self, levels: Sequence[tuple[str, Estimate]], joint: str) -> str:
        """The costs of the first levels, and how many more levels are worse."""
        listed = joint.join(f"{label} costs {self.cost(cost)}" for label, cost in levels[:LISTED])
        more = len(levels) - LISTED
        return f"{listed} and {more} more are worse" if more > 0 else listed

    def cost(self, estimate: Estimate) -> str:
        """A cost with its interval: ``12% (90%: 7.0% to 18%)``, or as a factor if it is large."""
        if self._ratio and estimate.high >= FACTORS:
            middle, low, high = (short(1 + value) for value in (estimate.value, estimate.low, estimate.high))
            return f"a factor of {middle} (90%: {low} to {high})"
        return f"{self.amount(estimate.value)} ({self._range(estimate)})"

    def _range(self, estimate: Estimate) -> str:
        return f"90%: {self.amount(estimate.low)} to {self.amount(estimate.high)}"

    def amount(self, value: float) -> str:
        """A cost as a percentage of the objective, or in its units."""
        if not self._ratio:
            return short(value)
        return f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}"


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


def _label(level: Level) -> str:
    return f"{level.label} alone" if level.label.startswith("w_") else level.label


def _sentence(text: str) -> str:
    """The text with a full stop; a name in front of a colon keeps its spelling."""
    return f"{text if ': ' in text.partition('(')[0] else text[0].upper() + text[1:]}."
