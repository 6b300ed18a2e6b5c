"""The five questions, and which settings of dropopt answer each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dropopt.study.effects.factors import BLEND, Factor

Question = Literal["which", "how much", "where", "when", "whether"]

#: The questions as people ask them, in this order.
QUESTIONS: dict[Question, str] = {
    "which": "Which dropout",
    "how much": "How much",
    "where": "Where",
    "when": "When",
    "whether": "Whether at all",
}

#: The settings that answer each question, the most direct first. ``alpha`` acts on depth and time together.
_SETTINGS: dict[Question, tuple[str, ...]] = {
    "which": ("pattern", "kind", BLEND, "drop_updates", "reading", "structured_threshold", "block_size"),
    "how much": ("r0", "p", "complexity_theta", "performance_psi", "performance"),
    "where": ("sites", "allocation", "alpha", "theta_depth", "importance"),
    "when": (
        "alpha",
        "theta_epoch",
        "schedule",
        "duration_phi",
        "efficacy",
        "efficacy_step",
        "delta",
        "lambda_loss",
        "lambda_init",
        "kappa",
        "theta",
    ),
    "whether": (),
}

#: The schedules of a drop rate. The learning rate has other schedules under the same name.
_SCHEDULES = {"constant", "linear"}

#: The settings that may have a range for each value of another setting.
_BY_CASE = ("block_size", "p", "r0")

#: The settings that are a drop rate.
RATES = ("r0", "p")

#: The settings that turn dropout off, and the value that does.
OFF: dict[str, object] = {"r0": 0.0, "p": 0.0, "kind": "none"}


def factors_for(question: Question, factors: Sequence[Factor]) -> list[int]:
    """The positions of the factors that answer a question, the most direct first."""
    found = []
    for setting in _SETTINGS[question]:
        found += [index for index, factor in enumerate(factors) if _is(factor, setting)]
    if question == "when":
        found += [index for index, factor in enumerate(factors) if factor.name.startswith(f"{BLEND}, ")]
    return found


def turns_off(factor: Factor) -> bool:
    """Whether a factor has a value that turns dropout off, and others."""
    if factor.kind == "choice":
        return factor.name in OFF and OFF[factor.name] in factor.choices
    return factor.name in OFF and factor.low == OFF[factor.name]


def _is(factor: Factor, setting: str) -> bool:
    """Whether a factor is a setting, or its range for one value of another setting (``block_size_dropblock``)."""
    if setting == "schedule" and not {str(choice) for choice in factor.choices} <= _SCHEDULES:
        return False
    if factor.name == setting:
        return True
    known = {name for names in _SETTINGS.values() for name in names}
    return setting in _BY_CASE and factor.name.startswith(f"{setting}_") and factor.name not in known
