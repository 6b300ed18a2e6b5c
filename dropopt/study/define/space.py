"""A search space: which settings a study varies, from where to where, and under which conditions.

A space is read from a YAML file (see :mod:`dropopt.study.define.grammar`) and turned into one configuration per
trial. An Optuna parameter carries the name of the setting it sets, so that files, the dashboard and
reports all show the same names; only a weight searched by stage has one parameter per stage
(``w_pfid_early``, ``w_pfid_middle``, ``w_pfid_late``).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import STAGES, Baseline, ConfigError, EngineConfig, RunConfig
from dropopt.study.define import shipped
from dropopt.study.define.grammar import parse
from dropopt.study.define.parameter import Choice, Parameter, Suggests

if TYPE_CHECKING:
    pass


#: Configurations drawn to find settings that are legal alone but not together.
_DRAWS = 100


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
        path = shipped.find("search_spaces", str(name), beside)
        declared = parse(path)
        space = cls(path.stem, path, declared.engine, declared.fixed, declared.parameters)
        try:
            _try_draws(space)
        except ConfigError as error:
            raise ConfigError(f"{path}:{declared.line}: some of its configurations are not legal: {error}") from None
        return space

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


class _Draw:
    """A trial of uniform draws, to try a space before any study does."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            return low + step * self._random.randint(0, round((high - low) / step))
        return low + self._random.random() * (high - low)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._random.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)


def _try_draws(space: Space) -> None:
    """Draw configurations from ``space``: settings that are legal alone may not be legal together."""
    for seed in range(_DRAWS):
        space.suggest(_Draw(seed), 10, RunConfig())
