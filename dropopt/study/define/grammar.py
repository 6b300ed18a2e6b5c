"""The grammar of search-space files, which are YAML.

The two sections ``engine:`` and ``train:`` contain settings by name::

    engine:
      reading: sound                                     # a plain value is fixed
      pattern: [element, channel, spatial]               # a list: choices
      r0: {low: 0.0, high: 0.7}                          # a range
      block_size: {low: 1, high: 5, step: 2, when: {pattern: spatial}}
      lambda_loss: {low: 0.02, high: 1.0, unit: ln_classes}
      w_pfid: {low: 0.0, high: 1.0, stages: 3}           # one value for each third of training
    train:
      weight_decay: {low: 1e-5, high: 1e-2, log: true}
      lr:                                                # a range for each value of another setting
        by:
          optimizer:
            sgd: {low: 0.01, high: 0.5, log: true}
            adamw: {low: 1e-4, high: 1e-2, log: true}

If the other setting is searched in the same file, each range is a parameter of its own (``lr_sgd``, ``lr_adamw``).
If the value of a setting can be a list itself (``augment``, ``sites``, a weight by stage), a list is a fixed value.
Choices among its single values are then written ``{choices: [...]}``. The settings and their valid values come from the
configuration models in :mod:`dropopt.config`, so a new setting can be searched without a change here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from dropopt.config import STAGES, Baseline, ConfigError, EngineConfig, TrainConfig
from dropopt.explain import allowed, suggestion
from dropopt.study.define.parameter import Cases, Choice, Parameter
from dropopt.yamlfile import Item, read

#: Settings that only the study sets: trials that differ in them could not be compared.
STUDY_SETTINGS = ("epochs", "smooth", "seed", "device", "lr_scale")

_RANGE_ONLY = ("low", "high", "log", "step", "unit")
_RANGE = (*_RANGE_ONLY, "stages", "when")
_CHOICES = ("choices", "stages", "when")
_BY = ("by", "when")


class _Fault(Exception):
    """A mistake in a line of the file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Setting:
    """A field of a configuration model, and how it can be searched."""

    model: type[EngineConfig] | type[Baseline] | type[TrainConfig]
    name: str

    @cached_property
    def _types(self) -> tuple[Any, ...]:
        """The members of a union without their constraints, or the one type of the field."""
        annotation = self.model.model_fields[self.name].annotation
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        return tuple(get_args(member)[0] if get_origin(member) is Annotated else member for member in members)

    @property
    def number(self) -> type[int] | type[float] | None:
        """``int`` or ``float`` if the setting can be a number."""
        return int if int in self._types else float if float in self._types else None

    @property
    def is_list(self) -> bool:
        """Whether a value of this setting can be a list."""
        return any(get_origin(kind) is tuple for kind in self._types)

    @property
    def staged(self) -> bool:
        """Whether it can have one value for each stage of training."""
        return any(
            get_origin(kind) is tuple and len(get_args(kind)) == len(STAGES) and get_args(kind)[-1] is not ...
            for kind in self._types
        )

    @property
    def allowed(self) -> str:
        """The valid values, in words."""
        return allowed(self.model, self.name)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        field = self.model.model_fields[self.name]
        whole: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return TypeAdapter(whole)

    def check(self, item: Item) -> Any:
        """Return the value of ``item`` if it is valid; types are not converted, so ``true`` is not a number."""
        value = item.plain()
        if isinstance(value, float) and not math.isfinite(value):
            raise _Fault(item.line, f"{self.name} must be {self.allowed}, got {value}")
        try:
            return self._adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            raise _Fault(item.line, f"{self.name} must be {self.allowed}, got {_show(value)}") from None


@dataclass(frozen=True)
class Declared:
    """The content of a space file."""

    engine: type[EngineConfig] | type[Baseline]
    #: Settings that every trial shares, by section.
    fixed: Mapping[str, Mapping[str, Any]]
    #: A parameter comes after those that its conditions refer to.
    parameters: tuple[Parameter, ...]
    #: The line on which the file's content begins.
    line: int


def parse(path: Path) -> Declared:
    """Read and check a space file; raises :class:`ConfigError` with the file and the line of a mistake."""
    try:
        return _declared(read(path))
    except _Fault as fault:
        raise ConfigError(f"{path}:{fault.line}: {fault}") from None


def _declared(root: Item) -> Declared:
    """Read the content of a file."""
    sections = _mapping(root, "a search space", ("engine", "train"))
    engine = sections.get("engine", Item({}, root.line))
    # As in a configuration, the key `kind` selects a baseline.
    baseline = isinstance(engine.value, dict) and "kind" in engine.value
    model: type[EngineConfig] | type[Baseline] = Baseline if baseline else EngineConfig
    fixed: dict[str, dict[str, Any]] = {}
    found: list[tuple[Parameter, Item]] = []
    for section, owner in (("engine", model), ("train", TrainConfig)):
        items = _mapping(sections.get(section, Item({}, 1)), section, tuple(owner.model_fields))
        for name, item in items.items():
            if name in STUDY_SETTINGS:
                raise _Fault(item.line, f"{name} is set by the study and must be the same for all trials; remove it")
            searched = _entry(section, Setting(owner, name), item)
            if isinstance(searched, list):
                found += [(parameter, item) for parameter in searched]
            else:
                fixed.setdefault(section, {})[name] = searched[0]
    found = [(parameter, item) for one, item in found for parameter in _one_range(one, item, found, fixed)]
    if not found:
        raise _Fault(root.line, "nothing is searched; give at least one setting a range or choices")
    _refuse_double_names(found, fixed)
    _check_conditions(found, fixed)
    return Declared(model, fixed, _in_order(found), root.line)


def _entry(section: str, setting: Setting, item: Item) -> list[Parameter] | tuple[Any]:
    """Return the parameters that an entry declares, or the value that it fixes, in a tuple of one."""
    if isinstance(item.value, list) and not setting.is_list:
        return [Parameter(section, setting.name, choices=_choices(setting, item))]
    if not isinstance(item.value, dict):
        try:
            return (setting.check(item),)
        except _Fault as fault:
            hint = f", or {{choices: {_show(item.plain())}}}" if isinstance(item.value, list) else ""
            raise _Fault(fault.line, f"{fault}{hint}") from None
    shape = _CHOICES if "choices" in item.value else _BY if "by" in item.value else _RANGE
    keys = _mapping(item, setting.name, shape)
    if "by" in keys:
        parameter = Parameter(section, setting.name, cases=_cases(section, setting, keys["by"]))
    else:
        parameter = _searched(section, setting, item, keys)
    if "when" in keys:
        when = _mapping(keys["when"], "when", None)
        parameter = replace(parameter, when={name: _values(given) for name, given in when.items()})
    if "stages" not in keys:
        return [parameter]
    if not setting.staged or keys["stages"].value != len(STAGES):
        wanted = f"stages must be {len(STAGES)}" if setting.staged else f"{setting.name} has no stages"
        raise _Fault(keys["stages"].line, wanted)
    return [replace(parameter, stage=stage) for stage in range(len(STAGES))]


def _searched(section: str, setting: Setting, item: Item, keys: Mapping[str, Item]) -> Parameter:
    """Read ``{choices: ...}`` or ``{low: ..., high: ...}``."""
    if "choices" in keys:
        return Parameter(section, setting.name, choices=_choices(setting, keys["choices"]))
    return _range(section, setting, item, keys)


def _cases(section: str, setting: Setting, item: Item) -> Cases:
    """Read ``{other setting: {value: {low: ..., high: ...}, ...}}``."""
    others = _mapping(item, f"{setting.name}: by", tuple(n for n in setting.model.model_fields if n != setting.name))
    if len(others) != 1:
        raise _Fault(item.line, f"{setting.name}: by must name one other setting, got {len(others)}")
    ((name, ranges),) = others.items()
    other = Setting(setting.model, name)
    parameters: dict[Choice, Parameter] = {}
    for value, entry in _mapping(ranges, f"{setting.name}: by {name}", None).items():
        other.check(Item(value, entry.line))
        shape = ("choices",) if isinstance(entry.value, dict) and "choices" in entry.value else _RANGE_ONLY
        keys = _mapping(entry, f"{setting.name} by {name}", shape)
        parameters[value] = _searched(section, setting, entry, keys)
    return Cases(name, parameters)


def _one_range(
    parameter: Parameter, item: Item, found: Sequence[tuple[Parameter, Item]], fixed: Mapping[str, Mapping[str, Any]]
) -> list[Parameter]:
    """Resolve the cases of a parameter, so that each parameter has one range.

    If the other setting is fixed in this file, the range is known. If it is searched in this file, each of its choices
    needs a range and gives a separate parameter, because the range of one Optuna parameter should not change within a
    study. Otherwise the study sets it: see ``Space.bound``.
    """
    cases = parameter.cases
    if cases is None:
        return [parameter]
    others = (other for other, _ in found if other.section == parameter.section)
    deciding = next((other for other in others if other.name == cases.by), None)
    try:
        if deciding is None:
            known = fixed.get(parameter.section, {})
            return [parameter.bound(known) if cases.by in known else parameter]
        if not deciding.choices:
            raise ConfigError(f"{parameter.setting}: by must name a setting with choices; {cases.by} is a range")
        return [
            replace(parameter.bound({cases.by: value}), case=value, when={**parameter.when, cases.by: (value,)})
            for value in deciding.choices
        ]
    except ConfigError as error:
        raise _Fault(item.line, str(error)) from None


def _range(section: str, setting: Setting, item: Item, keys: Mapping[str, Item]) -> Parameter:
    """Read ``{low: ..., high: ...}``."""
    name, line = setting.name, item.line
    if setting.number is None:
        raise _Fault(line, f"{name} is not a number; give choices: {setting.allowed}")
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
        raise _Fault(keys["unit"].line, f"{name}: unit must be ln_classes (not for integers), got {_show(unit)}")
    step = _step(setting, keys["step"], low, high, log) if "step" in keys else None
    return Parameter(
        section,
        name,
        low=low,
        high=high,
        log=log,
        step=step,
        integer=setting.number is int,
        ln_classes=unit == "ln_classes",
    )


def _bound(setting: Setting, key: str, item: Item) -> float:
    """Read the number at ``low`` or ``high``, which must be a valid value of the setting."""
    value = item.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "an integer" if setting.number is int else "a number"
        raise _Fault(item.line, f"{setting.name}: {key} must be {kind}, got {_show(item.plain())}")
    try:
        setting.check(item)
    except _Fault:
        message = f"{setting.name}: {key} is {value:g}; {setting.name} must be {setting.allowed}"
        raise _Fault(item.line, message) from None
    return value


def _step(setting: Setting, item: Item, low: float, high: float, log: bool) -> float:
    """Read a step. The length of the range must be a multiple of it."""
    step, name = item.value, setting.name
    kinds = int if setting.number is int else int | float
    if isinstance(step, bool) or not isinstance(step, kinds) or not 0 < step <= high - low:
        kind = "an integer" if setting.number is int else "a number"
        raise _Fault(item.line, f"{name}: step must be {kind} in (0, high - low], got {_show(step)}")
    if log:
        raise _Fault(item.line, f"{name}: a log range cannot have a step")
    if abs((high - low) / step - round((high - low) / step)) > 1e-9:
        raise _Fault(item.line, f"{name}: high - low must be a multiple of step {step:g}, got {low:g} to {high:g}")
    return step


def _choices(setting: Setting, item: Item) -> tuple[Choice, ...]:
    """Read a list of different valid values."""
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
    """Read the values of a condition: one, or a list of them."""
    entries = item.value if isinstance(item.value, list) else [item]
    if not entries or any(isinstance(entry.value, dict | list) for entry in entries):
        raise _Fault(item.line, f"a condition must give a value or a list of values, got {_show(item.plain())}")
    return tuple(entry.value for entry in entries)


def _refuse_double_names(found: Sequence[tuple[Parameter, Item]], fixed: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a name is used in one section only: engine and training have settings of the same name."""
    names: dict[str, str] = {name: section for section, values in fixed.items() for name in values}
    for parameter, item in found:
        section = names.setdefault(parameter.name, parameter.section)
        if section != parameter.section:
            raise _Fault(item.line, f"{parameter.name} is given in both {section} and {parameter.section}; keep one")


def _check_conditions(found: Sequence[tuple[Parameter, Item]], fixed: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that each condition refers to a setting of the file, and to values that it can have."""
    possible: dict[str, tuple[Any, ...]] = {name: (value,) for given in fixed.values() for name, value in given.items()}
    possible |= {parameter.name: parameter.choices for parameter, _ in found}
    for parameter, item in found:
        for name, values in parameter.when.items():
            where = f"{parameter.setting}: the condition on {name!r}"
            if name not in possible:
                raise _Fault(item.line, f"{where} refers to a setting that this file neither fixes nor searches")
            if not possible[name]:
                raise _Fault(item.line, f"{where} must refer to a parameter with choices; {name} is a range")
            for value in values:
                # A condition may write 1 for 1.0, but not for true, although 1 == True.
                if not any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in possible[name]):
                    listed = ", ".join(_show(option) for option in possible[name])
                    raise _Fault(item.line, f"{where} names {_show(value)}; its values in this file are {listed}")


def _in_order(found: Sequence[tuple[Parameter, Item]]) -> tuple[Parameter, ...]:
    """Sort the parameters so that each comes after those that its conditions refer to."""
    waiting = {parameter.name: (parameter, item) for parameter, item in found}
    ordered: list[Parameter] = []
    while waiting:
        ready = [one for one, _ in waiting.values() if not waiting.keys() & one.when.keys()]
        if not ready:
            line = min(item.line for _, item in waiting.values())
            raise _Fault(line, f"the conditions of these parameters form a circle: {', '.join(waiting)}")
        ordered += ready
        for one in ready:
            del waiting[one.name]
    return tuple(ordered)


def _mapping(item: Item, what: str, known: tuple[str, ...] | None) -> dict[str, Item]:
    """Return the entries of ``item``; their names must be ``known``, unless that is None."""
    if not isinstance(item.value, dict) or (known is None and not item.value):
        raise _Fault(item.line, f"{what} must be a mapping (name: value), got {_show(item.plain())}")
    for name, entry in item.value.items():
        if known is not None and name not in known:
            raise _Fault(entry.line, f"unknown name {name!r} in {what}; {suggestion(name, known)}")
    return item.value


def _show(value: Any) -> str:
    """Return a value as it is written in a file, shortened."""
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
