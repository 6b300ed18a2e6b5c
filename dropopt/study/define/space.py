"""Search spaces: the settings that a study searches, their ranges, and the conditions between them.

An Optuna parameter has the name of its setting, so that files, the dashboard and reports all show the same names. Only
a weight that is searched by stage has one parameter per stage (``w_pfid_early``, ``w_pfid_middle``, ``w_pfid_late``),
and a setting with a range for each choice of another searched setting has one per choice (``lr_sgd``, ``lr_adamw``).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dropopt.config import STAGES, Baseline, ConfigError, EngineConfig, RunConfig
from dropopt.study.define import shipped
from dropopt.study.define.grammar import parse
from dropopt.study.define.parameter import Choice, Parameter, Suggests

#: The number of configurations that are drawn to check a space when it is loaded.
_DRAWS = 100


@dataclass(frozen=True)
class Space:
    """The settings that a study searches and those that it fixes.

    Spaces are written as YAML files (see :mod:`dropopt.study.define.grammar`) and read with :meth:`load`.
    :meth:`suggest` builds the configuration of a trial; it works with any Optuna study.

    Args:
        name: The name of the file, without its suffix.
        path: The file.
        engine: The kind of engine that the space configures: ``EngineConfig`` or ``Baseline``.
        fixed: The settings that all trials share, by section (``engine``, ``train``) and name.
        parameters: The searched settings. A parameter comes after those that its conditions refer to.

    Example:
        >>> import optuna
        >>> from dropopt.study import Space
        >>> space = Space.load("dropout")
        >>> [parameter.name for parameter in space.parameters]
        ['kind', 'p', 'schedule', 'lr', 'weight_decay', 'sites', 'block_size']
        >>> values = {"kind": "dropout2d", "p": 0.3, "schedule": "linear", "sites": "auto", "lr": 0.1}
        >>> values |= {"weight_decay": 1e-4}
        >>> run = space.suggest(optuna.trial.FixedTrial(values), classes=10)
        >>> run.engine.kind, run.engine.p, run.train.lr
        ('dropout2d', 0.3, 0.1)
    """

    name: str
    path: Path
    engine: type[EngineConfig] | type[Baseline]
    fixed: Mapping[str, Mapping[str, Any]]
    parameters: tuple[Parameter, ...]

    @classmethod
    def load(cls, name: str | Path, *, beside: Path | None = None) -> Space:
        """Read and check a space.

        Args:
            name: The path of a YAML file, or the name of a shipped space: ``compact``, ``paper``, ...
            beside: A folder that a relative path is tried in after the current one.

        Returns:
            The space.

        Raises:
            ConfigError: There is no such file, or it has a mistake; the message gives the line and what is allowed.
        """
        path = shipped.find("search_spaces", str(name), beside)
        declared = parse(path)
        space = cls(path.stem, path, declared.engine, declared.fixed, declared.parameters)
        try:
            _try_draws(space)
        except ConfigError as error:
            raise ConfigError(f"{path}:{declared.line}: some of its configurations are not valid: {error}") from None
        return space

    @property
    def fingerprint(self) -> str:
        """A hash of the searched and the fixed settings. Comments, order and layout do not change it."""
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

    @property
    def sites(self) -> tuple[Choice, ...]:
        """The choices of the setting ``sites``; empty if it is not searched."""
        return next((parameter.choices for parameter in self.parameters if parameter.setting == "sites"), ())

    def offered_sites(self, places: Mapping[str, Sequence[str]]) -> dict[Choice, str]:
        """Return the choices of ``sites``, each with the reason to leave it out; the reason is empty if it is kept.

        A named choice (``conv``, ``last:2``) that selects no module, or the same modules as an earlier one, is left
        out. Patterns on module names are kept, because they were written for this network.

        Args:
            places: The names of the modules that each named selector selects, in order of execution.

        Raises:
            ConfigError: No choice is left.
        """
        known: dict[tuple[str, ...], Choice] = {}
        reasons: dict[Choice, str] = {}
        for choice in self.sites:
            chosen = _chosen(str(choice), places)
            if chosen is None:
                reasons[choice] = ""
            elif not chosen:
                reasons[choice] = f"{choice} matches no module before the output layer"
            else:
                first = known.setdefault(chosen, choice)
                reasons[choice] = "" if first == choice else f"{choice} chooses the same modules as {first}"
        if reasons and all(reasons.values()):
            raise ConfigError(
                f"{self.path}: no choice of sites matches a module of this network: {', '.join(map(str, reasons))}; "
                f"it has: {', '.join(name for name, names in places.items() if names) or 'none'}"
            )
        return reasons

    def with_sites(self, choices: Sequence[Choice]) -> Space:
        """Return the space with the given choices of the setting ``sites``."""
        return replace(
            self,
            parameters=tuple(
                replace(one, choices=tuple(choices)) if one.setting == "sites" else one for one in self.parameters
            ),
        )

    def offered(self, places: Mapping[str, Sequence[str]]) -> Space:
        """Return the space with those choices of ``sites`` that :meth:`offered_sites` keeps for a network.

        Args:
            places: What ``dropopt.engine.named_places(model, example)`` returns.

        Raises:
            ConfigError: No choice is left.
        """
        reasons = self.offered_sites(places)
        return self.with_sites([choice for choice, reason in reasons.items() if not reason]) if reasons else self

    def bound(self, base: RunConfig) -> Space:
        """Return the space with one range for each parameter: those that hold under the settings of ``base``.

        Args:
            base: The settings that the space neither searches nor fixes.

        Raises:
            ConfigError: A parameter has no range for a setting of ``base``.
        """
        engine = base.engine.model_dump() if isinstance(base.engine, self.engine) else {}
        settings = {
            "engine": {name: field.default for name, field in self.engine.model_fields.items()} | engine,
            "train": base.train.model_dump(),
        }
        for section, values in self.fixed.items():
            settings[section].update(values)
        try:
            return replace(self, parameters=tuple(one.bound(settings[one.section]) for one in self.parameters))
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None

    def suggest(self, trial: Suggests, classes: int, base: RunConfig | None = None) -> RunConfig:
        """Suggest every parameter whose conditions hold, and build the configuration of a trial.

        Args:
            trial: An Optuna trial.
            classes: The number of classes of the data, at least 2; ranges in units of ln(classes) depend on it.
            base: The settings that the space neither searches nor fixes; the defaults if None.

        Returns:
            The configuration.

        Raises:
            ConfigError: The suggested values are not valid together.
        """
        values: dict[str, Choice] = {}
        known = {name: value for section in self.fixed.values() for name, value in section.items()}
        base = base or RunConfig()
        for parameter in self.bound(base).parameters:
            if parameter.active({**known, **values}):
                values[parameter.name] = parameter.suggest(trial, classes)
        return self.resolve(values, base)

    def resolve(self, values: Mapping[str, Choice], base: RunConfig) -> RunConfig:
        """Build the configuration for given values of the parameters.

        Args:
            values: A value for each parameter whose conditions hold, by the parameter's name.
            base: The settings that the space neither searches nor fixes.

        Returns:
            The configuration.

        Raises:
            ConfigError: A value is not valid, alone or together with the others.
        """
        sections: dict[str, dict[str, Any]] = {name: dict(fixed) for name, fixed in self.fixed.items()}
        for parameter in self.parameters:
            if parameter.name not in values:
                continue
            section, value = sections.setdefault(parameter.section, {}), values[parameter.name]
            if parameter.stage is None:
                section[parameter.setting] = value
            else:
                section.setdefault(parameter.setting, [None] * len(STAGES))[parameter.stage] = value
        # The settings of another kind of engine do not apply to this one.
        engine = base.engine.model_dump() if isinstance(base.engine, self.engine) else {}
        return RunConfig.parse(
            {
                "data": base.data,
                "model": base.model,
                "task": base.task,
                "train": base.train.model_dump() | sections.get("train", {}),
                "engine": engine | sections.get("engine", {}),
            }
        )

    def base(self, base: RunConfig) -> RunConfig:
        """Apply the kind of engine and the fixed settings of this space to ``base``.

        Returns:
            The configuration that all trials share.

        Raises:
            ConfigError: The fixed settings are not valid together with ``base``.
        """
        first = {p.name: p.choices[0] for p in self.parameters if p.setting == "kind"}
        try:
            return self.resolve(first, base)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None


def _chosen(selector: str, places: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """The names of the modules that a named selector selects; None if it is a pattern, or its modules are unknown."""
    kind, _, count = selector.partition(":")
    if kind == "last" and count.isdecimal() and "auto" in places:
        return tuple(places["auto"][-int(count) :]) if int(count) else ()
    return tuple(places[selector]) if selector in places else None


class _Draw:
    """Stands in for a trial, and draws every parameter uniformly."""

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
    """Draw configurations, because settings that are valid alone may not be valid together."""
    base = _with_ranges(space)
    for seed in range(_DRAWS):
        space.suggest(_Draw(seed), 10, base)


def _with_ranges(space: Space) -> RunConfig:
    """The defaults; a setting that decides about a range has its first value with a range if its default has none."""
    # Every space of baselines has a kind of its own; this one allows all other settings.
    engine = {"kind": "dropblock"} if space.engine is Baseline else {}
    sections: dict[str, dict[str, Any]] = {"engine": engine, "train": {}}
    defaults = RunConfig.parse(sections)
    for parameter in space.parameters:
        cases = parameter.cases
        if cases is not None and getattr(getattr(defaults, parameter.section), cases.by) not in cases.parameters:
            sections[parameter.section].setdefault(cases.by, next(iter(cases.parameters)))
    return RunConfig.parse(sections)
