"""Options of the command line that override the definition of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dropopt.config import ConfigError
from dropopt.study.define.definition import Definition
from dropopt.study.define.settings import Setting, changed
from dropopt.study.define.space import Space

#: The section and the setting that an option changes. Every other option changes the field of its own name.
_SETTINGS = {
    "data": ("data", "name"),
    "model": ("model", "name"),
    "epochs": ("train", "epochs"),
    "subset": ("data", "subset"),
    "image_size": ("data", "image_size"),
    "batch_size": ("train", "batch_size"),
    "device": ("train", "device"),
}
#: The fields that the command to resume a study repeats. The summary adds the number of trials, which may grow. The
#: prior, the anchors and the portfolio are needed only to create the study.
_REPEATED = (
    *("name", "space", "data", "model", "epochs", "subset", "image_size", "batch_size", "device", "set", "optimise"),
    *("sampler", "pruner", "seed"),
    *("timeout", "trial_timeout", "trial_memory", "checkpoints", "keep_checkpoints"),
)
#: The options that change a definition.
_OPTIONS = {*Definition.model_fields, *_SETTINGS, "set", "optimise"}


class Overrides:
    """The options of ``dropopt run`` that change a definition.

    Args:
        **options: Their values, by name; None, or an empty list, for an option that was not given. ``set`` is a list of
            settings as text: ``section.name=value``.
    """

    def __init__(self, **options: Any) -> None:
        self._given = {name: value for name, value in options.items() if value not in (None, [], ())}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Overrides:
        """The overrides among the parameters of a command."""
        return cls(**{name: value for name, value in parameters.items() if name in _OPTIONS})

    def apply(self, study: Definition) -> Definition:
        """Return ``study`` with these options. The result is checked like any definition."""
        values = {name: getattr(study, name) for name in type(study).model_fields}
        values |= {name: value for name, value in self._given.items() if name not in (*_SETTINGS, "set")}
        settings = self._settings()
        sections = {name: values[name].model_dump() for name in ("data", "model", "task", "train")}
        after = changed({**sections, "engine": values["engine"]}, settings)
        for name in {setting.section for setting in settings}:
            values[name] = type(values[name]).parse(after[name]) if name in sections else after[name]
        return Definition.parse(values)

    def check(self, space: Space) -> None:
        """Check that ``space`` leaves the settings of ``--set`` and ``--batch-size`` to the study.

        Raises:
            ConfigError: The space searches or fixes one of them.
        """
        for one in self._settings() if {"set", "batch_size"} & self._given.keys() else ():
            searched = any((p.section, p.setting) == (one.section, one.name) for p in space.parameters)
            if searched or one.name in space.fixed.get(one.section, {}):
                raise ConfigError(
                    f"{one.section}.{one.name} is {'searched' if searched else 'fixed'} by space {space.name!r}, so it "
                    "cannot be set; give another --space, or change a copy of its file"
                )

    def _settings(self) -> list[Setting]:
        """The settings that the options change."""
        given = self._given
        by_option = [Setting(*where, given[option]) for option, where in _SETTINGS.items() if option in given]
        return by_option + [Setting.read(text) for text in given.get("set", ())]

    def command_line(self, *, anew: bool = False) -> list[str]:
        """Return the options that were given, as arguments of the command line.

        Args:
            anew: Whether to include the options that only a new study needs, and the number of trials.
        """
        names = (*_REPEATED, "n_trials", "prior", "portfolio") if anew else _REPEATED
        line = []
        for name in names:
            option = "study-name" if name == "name" else name.replace("_", "-")
            given = self._given.get(name, ())
            for value in given if isinstance(given, list | tuple) else (given,):
                line += [f"--{option}", str(value)]
        if anew and "anchors" in self._given:
            line.append("--anchors" if self._given["anchors"] else "--no-anchors")
        return line
