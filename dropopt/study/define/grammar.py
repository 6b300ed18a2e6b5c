"""The grammar of search-space files: from YAML to a checked :class:`~dropopt.study.define.space.Space`.

Two sections, ``engine:`` and ``train:``, hold settings by their own names::

    engine:
      reading: sound                                     # a plain value is fixed
      pattern: [element, channel, spatial]               # a list: one of these
      r0: {low: 0.0, high: 0.7}                          # a range
      block_size: {low: 1, high: 5, step: 2, when: {pattern: spatial}}
      lambda_loss: {low: 0.02, high: 1.0, unit: ln_classes}
      w_pfid: {low: 0.0, high: 1.0, stages: 3}           # one value for each third of training
    train:
      lr: {low: 0.01, high: 0.5, log: true}

For a setting that may itself be a list (``augment``, ``sites``, a weight by stage) a list is a fixed value;
choices among its single values are written ``{choices: [...]}``. Settings and their legal values are read off the
configuration models, so a new setting can be searched at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from dropopt.config import (
    STAGES,
    Baseline,
    ConfigError,
    EngineConfig,
    TrainConfig,
    allowed,
    suggestion,
)
from dropopt.study.define.parameter import Choice, Parameter
from dropopt.yamlfile import Item, read

#: What would make the trials of one study incomparable; the study sets these, not the space.
STUDY_SETTINGS = ("epochs", "smooth", "seed", "device")

_RANGE = ("low", "high", "log", "step", "unit", "stages", "when")
_CHOICES = ("choices", "stages", "when")


class _Fault(Exception):
    """A mistake at a line of the file; the message says what was given and what is allowed."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Setting:
    """A field of a configuration model, seen as something to search."""

    model: type[EngineConfig] | type[Baseline] | type[TrainConfig]
    name: str

    @cached_property
    def _arms(self) -> tuple[Any, ...]:
        """The alternatives of a union, without their constraints; the type itself otherwise."""
        annotation = self.model.model_fields[self.name].annotation
        arms = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        return tuple(get_args(arm)[0] if get_origin(arm) is Annotated else arm for arm in arms)

    @property
    def number(self) -> type[int] | type[float] | None:
        """``int`` or ``float`` if the setting can be a number."""
        return int if int in self._arms else float if float in self._arms else None

    @property
    def is_list(self) -> bool:
        """Whether a list is one value of this setting."""
        return any(get_origin(arm) is tuple for arm in self._arms)

    @property
    def staged(self) -> bool:
        """Whether it can have one value for each stage of training."""
        return any(
            get_origin(arm) is tuple and len(get_args(arm)) == len(STAGES) and get_args(arm)[-1] is not ...
            for arm in self._arms
        )

    @property
    def options(self) -> tuple[Choice, ...]:
        """The names it can take, if it is a choice among names."""
        names = [value for arm in self._arms if get_origin(arm) is Literal for value in get_args(arm)]
        return (*((False, True) if bool in self._arms else ()), *names)

    @property
    def words(self) -> str:
        """What it may be, in words."""
        return allowed(self.model, self.name)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        field = self.model.model_fields[self.name]
        whole: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return TypeAdapter(whole)

    def check(self, item: Item) -> Any:
        """The value of ``item`` if the setting may have it. Strict: ``true`` is no number, text neither."""
        value = item.plain()
        if isinstance(value, float) and not math.isfinite(value):
            raise _Fault(item.line, f"{self.name} must be {self.words}, got {value}")
        try:
            return self._adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            raise _Fault(item.line, f"{self.name} must be {self.words}, got {_show(value)}") from None


@dataclass(frozen=True)
class Declared:
    """What a space file declares."""

    engine: type[EngineConfig] | type[Baseline]
    #: Settings that every trial shares, by section.
    fixed: Mapping[str, Mapping[str, Any]]
    #: In an order in which every condition is decided before it is asked for.
    parameters: tuple[Parameter, ...]
    #: The line on which the file's content begins.
    line: int


def parse(path: Path) -> Declared:
    """Read and check a space file; every mistake is a :class:`ConfigError` with file and line."""
    try:
        return _declared(read(path))
    except _Fault as fault:
        raise ConfigError(f"{path}:{fault.line}: {fault}") from None


def _declared(root: Item) -> Declared:
    sections = _mapping(root, "a search space", ("engine", "train"))
    engine = sections.get("engine", Item({}, root.line))
    # The key `kind` makes it a baseline, as everywhere in dropopt.
    baseline = isinstance(engine.value, dict) and "kind" in engine.value
    model: type[EngineConfig] | type[Baseline] = Baseline if baseline else EngineConfig
    fixed: dict[str, dict[str, Any]] = {}
    found: list[tuple[Parameter, Item]] = []
    for section, owner in (("engine", model), ("train", TrainConfig)):
        items = _mapping(sections.get(section, Item({}, 1)), section, tuple(owner.model_fields))
        for name, item in items.items():
            if name in STUDY_SETTINGS:
                raise _Fault(item.line, f"{name} belongs to the study, which compares all trials by it")
            searched = _entry(section, Setting(owner, name), item)
            if isinstance(searched, list):
                found += [(parameter, item) for parameter in searched]
            else:
                fixed.setdefault(section, {})[name] = searched[0]
    if not found:
        raise _Fault(root.line, "nothing is searched; give at least one setting a range or choices")
    _refuse_double_names(found, fixed)
    return Declared(model, fixed, _in_order(found, fixed), root.line)


def _entry(section: str, setting: Setting, item: Item) -> list[Parameter] | tuple[Any]:
    """The parameters that an entry declares, or, in a tuple of one, the value that it fixes."""
    if isinstance(item.value, list) and not setting.is_list:
        return [Parameter(section, setting.name, choices=_choices(setting, item))]
    if not isinstance(item.value, dict):
        try:
            return (setting.check(item),)
        except _Fault as fault:
            hint = f", or {{choices: {_show(item.plain())}}}" if isinstance(item.value, list) else ""
            raise _Fault(fault.line, f"{fault}{hint}") from None
    shape = _CHOICES if "choices" in item.value else _RANGE
    keys = _mapping(item, setting.name, shape)
    if "choices" in keys:
        parameter = Parameter(section, setting.name, choices=_choices(setting, keys["choices"]))
    else:
        parameter = _range(section, setting, item, keys)
    if "when" in keys:
        when = _mapping(keys["when"], "when", None)
        parameter = replace(parameter, when={name: _values(given) for name, given in when.items()})
    if "stages" not in keys:
        return [parameter]
    if not setting.staged or keys["stages"].value != len(STAGES):
        wanted = f"stages must be {len(STAGES)}" if setting.staged else f"{setting.name} has no stages"
        raise _Fault(keys["stages"].line, wanted)
    return [replace(parameter, stage=stage) for stage in range(len(STAGES))]


def _range(section: str, setting: Setting, item: Item, keys: Mapping[str, Item]) -> Parameter:
    name, line = setting.name, item.line
    if setting.number is None:
        raise _Fault(line, f"{name} is not a number; give choices: {setting.words}")
    if missing := [key for key in ("low", "high") if key not in keys]:
        raise _Fault(line, f"{name} needs {' and '.join(missing)}: {{low: ..., high: ...}}")
    low, high = (_bound(setting, key, keys[key]) for key in ("low", "high"))
    if low >= high:
        raise _Fault(line, f"{name}: low must be below high, got {low:g} and {high:g}")
    log = keys["log"].value if "log" in keys else False
    if not isinstance(log, bool):
        raise _Fault(keys["log"].line, f"{name}: log must be true or false, got {_show(log)}")
    if log and low <= 0:
        raise _Fault(line, f"{name}: a log range must start above 0, got low {low:g}")
    unit = keys["unit"].value if "unit" in keys else None
    if unit is not None and (unit != "ln_classes" or setting.number is int):
        raise _Fault(keys["unit"].line, f"{name}: unit must be ln_classes (of a number), got {_show(unit)}")
    step = _step(setting, keys["step"], low, high, log) if "step" in keys else None
    integer = setting.number is int
    ln_classes = unit == "ln_classes"
    return Parameter(section, name, (), low, high, log, step, integer, ln_classes)


def _bound(setting: Setting, key: str, item: Item) -> float:
    value = item.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "an integer" if setting.number is int else "a number"
        raise _Fault(item.line, f"{setting.name}: {key} must be {kind}, got {_show(item.plain())}")
    try:
        setting.check(item)
    except _Fault:
        message = f"{setting.name}: {key} is {value:g}; {setting.name} must be {setting.words}"
        raise _Fault(item.line, message) from None
    return value


def _step(setting: Setting, item: Item, low: float, high: float, log: bool) -> float:
    step, name = item.value, setting.name
    kinds = int if setting.number is int else int | float
    if isinstance(step, bool) or not isinstance(step, kinds) or not 0 < step <= high - low:
        kind = "an integer" if setting.number is int else "a number"
        raise _Fault(item.line, f"{name}: step must be {kind} in (0, high - low], got {_show(step)}")
    if log:
        raise _Fault(item.line, f"{name}: a log range has no step")
    if abs((high - low) / step - round((high - low) / step)) > 1e-9:
        raise _Fault(item.line, f"{name}: {low:g} to {high:g} is not a whole number of steps of {step:g}")
    return step


def _choices(setting: Setting, item: Item) -> tuple[Choice, ...]:
    if not isinstance(item.value, list) or not item.value:
        raise _Fault(item.line, f"{setting.name}: choices must be a list of values, got {_show(item.plain())}")
    values: list[Choice] = []
    for entry in item.value:
        if isinstance(entry.value, dict | list):
            raise _Fault(entry.line, f"{setting.name}: a choice must be one value, got {_show(entry.plain())}")
        value = setting.check(entry)
        if value in values:
            raise _Fault(entry.line, f"{setting.name}: {_show(value)} is given twice")
        values.append(value)
    return tuple(values)


def _values(item: Item) -> tuple[Choice, ...]:
    """The values named by a condition: one, or a list of them."""
    entries = item.value if isinstance(item.value, list) else [item]
    if not entries or any(isinstance(entry.value, dict | list) for entry in entries):
        raise _Fault(item.line, f"a condition names a value or a list of them, got {_show(item.plain())}")
    return tuple(entry.value for entry in entries)


def _refuse_double_names(found: Sequence[tuple[Parameter, Item]], fixed: Mapping[str, Mapping[str, Any]]) -> None:
    """Engine and training share a few names (``schedule``); a parameter's name must mean one setting."""
    names: dict[str, str] = {name: section for section, values in fixed.items() for name in values}
    for parameter, item in found:
        section = names.setdefault(parameter.name, parameter.section)
        if section != parameter.section:
            raise _Fault(item.line, f"{parameter.name} is given in both {section} and {parameter.section}; keep one")


def _in_order(found: Sequence[tuple[Parameter, Item]], fixed: Mapping[str, Mapping[str, Any]]) -> tuple[Parameter, ...]:
    """Check every condition and put each parameter after those that decide about it."""
    lines = {parameter.name: item.line for parameter, item in found}
    waiting = {parameter.name: parameter for parameter, _ in found}
    constants = {name: value for section in fixed.values() for name, value in section.items()}
    for parameter in waiting.values():
        for name, values in parameter.when.items():
            _condition(parameter, name, values, waiting.get(name), constants, lines[parameter.name])
    ordered: list[Parameter] = []
    while waiting:
        ready = [p for p in waiting.values() if not any(name in waiting for name in p.when)]
        if not ready:
            circle = ", ".join(waiting)
            line = min(lines[name] for name in waiting)
            raise _Fault(line, f"these conditions wait for each other: {circle}")
        ordered += ready
        waiting = {name: p for name, p in waiting.items() if p not in ready}
    return tuple(ordered)


def _condition(
    parameter: Parameter,
    name: str,
    values: tuple[Choice, ...],
    other: Parameter | None,
    constants: Mapping[str, Any],
    line: int,
) -> None:
    where = f"{parameter.setting}: the condition on {name!r}"
    if other is None:
        if name not in constants:
            raise _Fault(line, f"{where} is about nothing in this file; fixed or searched here must be {name!r}")
        possible: tuple[Any, ...] = (constants[name],)
    elif not other.choices:
        raise _Fault(line, f"{where} needs a parameter with choices; {name} is a range")
    else:
        possible = other.choices
    for value in values:
        # `1 == True`: a condition must name the value as it is.
        if not any(value == option and type(value) is type(option) for option in possible):
            listed = ", ".join(_show(option) for option in possible)
            raise _Fault(line, f"{where} names {_show(value)}; here it can be {listed}")


def _mapping(item: Item, what: str, known: tuple[str, ...] | None) -> dict[str, Item]:
    """The entries of ``item``, all of whose names must be ``known``."""
    if not isinstance(item.value, dict) or (known is None and not item.value):
        raise _Fault(item.line, f"{what} must be a mapping (name: value), got {_show(item.plain())}")
    for name, entry in item.value.items():
        if known is not None and name not in known:
            raise _Fault(entry.line, f"unknown name {name!r} in {what}; {suggestion(name, known)}")
    return item.value


def _show(value: Any) -> str:
    """A value as the file would spell it, cut short."""
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
