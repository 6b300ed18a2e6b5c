"""Settings by name from the command line: ``--set train.weight_decay=1e-3``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropopt.config import (
    Baseline,
    ConfigError,
    DataConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
)
from dropopt.explain import suggestion
from dropopt.yamlfile import parse

_KNOWN: dict[str, tuple[str, ...]] = {
    "data": tuple(DataConfig.model_fields),
    "model": tuple(ModelConfig.model_fields),
    "train": tuple(TrainConfig.model_fields),
    "task": tuple(TaskConfig.model_fields),
    "engine": tuple(dict.fromkeys((*EngineConfig.model_fields, *Baseline.model_fields))),
}
_OPTIONS = ("model", "options")


@dataclass(frozen=True)
class Setting:
    """A setting and its new value.

    Args:
        section: ``data``, ``model``, ``task``, ``train`` or ``engine``.
        name: The setting.
        value: Its value.
        option: For ``model.options``: the option that gets the value; None for all options.
    """

    section: str
    name: str
    value: Any
    option: str | None = None

    @classmethod
    def read(cls, text: str) -> Setting:
        """Read ``section.name=value``; the value is written as in a YAML file.

        Raises:
            ConfigError: There is no such setting, or the value cannot be read.

        Example:
            >>> Setting.read("train.augment=[flip, shift]")
            Setting(section='train', name='augment', value=['flip', 'shift'], option=None)
        """
        path, equals, given = text.partition("=")
        section, _, rest = path.strip().partition(".")
        if not equals or not rest:
            raise ConfigError(f"--set {text}: expected section.name=value, such as --set train.weight_decay=1e-3")
        if section not in _KNOWN:
            raise ConfigError(f"--set {text}: unknown section {section!r}; {suggestion(section, _KNOWN)}")
        name, _, option = rest.partition(".")
        if name not in _KNOWN[section] or (option and (section, name) != _OPTIONS):
            raise ConfigError(
                f"--set {text}: unknown setting {rest!r} of {section}; {suggestion(rest, _KNOWN[section])}"
            )
        value = parse(given.encode(), Path(f"--set {path}")).plain() if given.strip() else None
        return cls(section, name, value, option or None)


def changed(values: Mapping[str, Mapping[str, Any]], settings: Iterable[Setting]) -> dict[str, dict[str, Any]]:
    """Copy ``values``, the settings by section and name, with ``settings`` in their places.

    Another network has other options, and another kind of engine other settings: they begin with their defaults.
    """
    found = {section: dict(inside) for section, inside in values.items()}
    for one in sorted(settings, key=lambda one: one.name not in ("name", "kind")):  # these reset the others
        section = found.setdefault(one.section, {})
        if (one.section, one.name) == ("model", "name") and section.get("name") != one.value:
            section["options"] = {}
        if (one.section, one.name) == ("engine", "kind") and "kind" not in section:
            section.clear()
        if one.option is not None:
            section["options"] = {**(section.get("options") or {}), one.option: one.value}
        else:
            section[one.name] = one.value
    return found


def changed_run(run: RunConfig, settings: Iterable[Setting]) -> RunConfig:
    """Return ``run`` with ``settings`` in their places.

    Raises:
        ConfigError: A value is not allowed.
    """
    settings = list(settings)
    if not settings:
        return run
    values = {section: getattr(run, section).model_dump() for section in _KNOWN}
    return RunConfig.parse(changed(values, settings))
