"""A search space: which settings a study varies, from where to where, and under which conditions.

A space is read from a YAML file (see :mod:`dropopt.study.grammar`) and turned into one configuration per
trial. An Optuna parameter carries the name of the setting it sets, so that files, the dashboard and
reports all show the same names; only a weight searched by stage has one parameter per stage
(``w_pfid_early``, ``w_pfid_middle``, ``w_pfid_late``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dropopt.config import STAGES, Baseline, ConfigError, EngineConfig, RunConfig
from dropopt.study import shipped

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Choice = None | bool | int | float | str


class Suggests(Protocol):
    """What a space asks of a trial; Optuna's ``Trial`` and ``FixedTrial`` have it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """An integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of ``choices``."""


@dataclass(frozen=True)
class Parameter:
    """One searched setting: a range of numbers, or choices."""

    section: str
    setting: str
    choices: tuple[Choice, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    integer: bool = False
    #: The range is in units of ln(classes), the loss of a guess.
    ln_classes: bool = False
    #: Which third of training it is for; None: all of it.
    stage: int | None = None
    #: The setting is searched only while each of these parameters has one of these values.
    when: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The Optuna parameter: the setting's name."""
        return self.setting if self.stage is None else f"{self.setting}_{STAGES[self.stage]}"

    def range(self, classes: int) -> tuple[float, float]:
        """Lowest and highest value for a data set of so many classes."""
        unit = math.log(classes) if self.ln_classes else 1.0
        return self.low * unit, self.high * unit

    def suggest(self, trial: Suggests, classes: int) -> Choice:
        """Ask ``trial`` for a value."""
        if self.choices:
            choice: Choice = trial.suggest_categorical(self.name, self.choices)
            return choice
        low, high = self.range(classes)
        if self.integer:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(low), int(high), step=step, log=self.log)
        return trial.suggest_float(self.name, low, high, step=self.step, log=self.log)

    def distribution(self, classes: int) -> BaseDistribution:
        """Optuna's description of the range."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        low, high = self.range(classes)
        if self.integer:
            return IntDistribution(int(low), int(high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def active(self, values: Mapping[str, Choice]) -> bool:
        """Whether the conditions hold, given the values of the parameters before this one."""
        return all(name in values and values[name] in allowed for name, allowed in self.when.items())

    def facts(self) -> dict[str, Any]:
        """All that decides what it may be, for the fingerprint."""
        return {key: value for key, value in vars(self).items() if key != "when"} | {"when": dict(self.when)}


@dataclass(frozen=True)
class Space:
    """What a study searches, and what it holds fixed."""

    name: str
    path: Path
    engine: type[EngineConfig] | type[Baseline]
    #: Settings that every trial shares, by section.
    fixed: Mapping[str, Mapping[str, Any]]
    #: In an order in which every condition is decided before it is asked for.
    parameters: tuple[Parameter, ...]

    @classmethod
    def load(cls, name: str | Path, *, beside: Path | None = None) -> Space:
        """Read a space by path (from here, or beside a study's script) or by the name of a shipped one.

        Every mistake in the file is a :class:`ConfigError` with file, line and what is allowed.
        """
        from dropopt.study.grammar import parse

        return parse(shipped.find("search_spaces", str(name), beside))

    @property
    def fingerprint(self) -> str:
        """A hash of what is searched and what is fixed; comments and layout do not matter."""
        facts = {
            "engine": self.engine.__name__,
            "fixed": {section: dict(values) for section, values in self.fixed.items()},
            "parameters": sorted((p.facts() for p in self.parameters), key=lambda f: (f["setting"], f["stage"])),
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def conditional(self) -> bool:
        """Whether some parameter is searched only under a condition."""
        return any(parameter.when for parameter in self.parameters)

    def suggest(self, trial: Suggests, classes: int, base: RunConfig | None = None) -> RunConfig:
        """Ask ``trial`` for every parameter whose conditions hold and build its configuration.

        What is neither searched nor fixed here comes from ``base``.
        """
        values: dict[str, Choice] = {}
        known = {name: value for section in self.fixed.values() for name, value in section.items()}
        for parameter in self.parameters:
            if parameter.active({**known, **values}):
                values[parameter.name] = parameter.suggest(trial, classes)
        return self.resolve(values, base or RunConfig())

    def resolve(self, values: Mapping[str, Choice], base: RunConfig) -> RunConfig:
        """The configuration that these values of the parameters mean."""
        sections: dict[str, dict[str, Any]] = {name: dict(fixed) for name, fixed in self.fixed.items()}
        for parameter in self.parameters:
            if parameter.name not in values:
                continue
            section, value = sections.setdefault(parameter.section, {}), values[parameter.name]
            if parameter.stage is None:
                section[parameter.setting] = value
            else:
                section.setdefault(parameter.setting, [None] * len(STAGES))[parameter.stage] = value
        # Settings of another kind of engine mean nothing to this one.
        engine = base.engine.model_dump() if isinstance(base.engine, self.engine) else {}
        return RunConfig.parse(
            {
                "data": base.data,
                "model": base.model,
                "train": base.train.model_dump() | sections.get("train", {}),
                "engine": engine | sections.get("engine", {}),
            }
        )

    def base(self, base: RunConfig) -> RunConfig:
        """``base`` with this space's kind of engine and fixed settings: what all trials share."""
        first = {p.name: p.choices[0] for p in self.parameters if p.setting == "kind"}
        try:
            return self.resolve(first, base)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None
