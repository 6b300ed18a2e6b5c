"""One searched setting: its range or choices, and the conditions under which it is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dropopt.config import STAGES, ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


Choice = None | bool | int | float | str


class Suggests(Protocol):
    """The methods of a trial that a space calls; Optuna's ``Trial`` and ``FixedTrial`` have them."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of ``choices``."""


@dataclass(frozen=True)
class Parameter:
    """One searched setting: a list of choices, or a range of numbers."""

    #: ``engine`` or ``train``.
    section: str
    setting: str
    #: The values to choose from; empty for a range.
    choices: tuple[Choice, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    integer: bool = False
    #: Whether the range is in units of ln(classes), the loss of guessing with equal probabilities.
    ln_classes: bool = False
    #: The value of another, searched setting for which this range holds; None if the setting has one range.
    case: Choice = None
    #: The ranges or choices for each value of another setting, which the study fixes: see :meth:`bound`.
    cases: Cases | None = None
    #: The third of training for which the value holds, from 0; None for all of training.
    stage: int | None = None
    #: The setting is searched only while each of these parameters has one of these values.
    when: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the Optuna parameter: the setting's name, followed by the case or the stage if it has one."""
        if self.case is not None:
            return f"{self.setting}_{self.case}"
        return self.setting if self.stage is None else f"{self.setting}_{STAGES[self.stage]}"

    def bound(self, settings: Mapping[str, Any]) -> Parameter:
        """Return the parameter with the range that holds under these settings of its section.

        Raises:
            ConfigError: The other setting has a value for which there is no range.
        """
        if self.cases is None:
            return self
        value = settings[self.cases.by]
        if value not in self.cases.parameters:
            known = ", ".join(map(str, self.cases.parameters))
            raise ConfigError(f"{self.setting} has no range for {self.cases.by} = {value}; it has: {known}")
        return replace(self.cases.parameters[value], when=self.when)

    def range(self, classes: int) -> tuple[float, float]:
        """Return the lowest and the highest value, for a data set with this number of classes."""
        unit = math.log(max(classes, 2)) if self.ln_classes else 1.0  # without classes: as with two
        return self.low * unit, self.high * unit

    def suggest(self, trial: Suggests, classes: int) -> Choice:
        """Suggest a value in ``trial``."""
        if self.choices:
            choice: Choice = trial.suggest_categorical(self.name, self.choices)
            return choice
        low, high = self.range(classes)
        if self.integer:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(low), int(high), step=step, log=self.log)
        return trial.suggest_float(self.name, low, high, step=self.step, log=self.log)

    def distribution(self, classes: int) -> BaseDistribution:
        """Return Optuna's distribution of the parameter."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        low, high = self.range(classes)
        if self.integer:
            return IntDistribution(int(low), int(high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def active(self, values: Mapping[str, Choice]) -> bool:
        """Whether the conditions hold, given the values of the preceding parameters and of the fixed settings."""
        return all(name in values and values[name] in allowed for name, allowed in self.when.items())

    def facts(self) -> dict[str, Any]:
        """Return everything that determines the possible values, for the fingerprint of the space."""
        facts = {key: value for key, value in vars(self).items() if key not in ("when", "case", "cases")}
        facts["when"] = dict(self.when)
        if self.case is not None:  # so spaces without cases keep their earlier fingerprints
            facts["case"] = self.case
        if self.cases is not None:
            ranges = {str(value): parameter.facts() for value, parameter in self.cases.parameters.items()}
            facts["cases"] = {self.cases.by: ranges}
        return facts


@dataclass(frozen=True)
class Cases:
    """The ranges of a setting, for each value of another setting."""

    #: The name of the other setting.
    by: str
    parameters: Mapping[Choice, Parameter]


def is_within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether ``distribution`` contains ``value``."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False
