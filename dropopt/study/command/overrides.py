"""Options of the command line that override the definition of a study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dropopt.study.define.definition import Definition

#: The section and the setting that an option changes. Every other option changes the field of its own name.
_SETTINGS = {
    "data": ("data", "name"),
    "model": ("model", "name"),
    "epochs": ("train", "epochs"),
    "subset": ("data", "subset"),
    "optimise": ("train", "optimise"),
}
#: The fields that the command to resume a study repeats. The summary adds the number of trials, which may grow. The
#: prior and the anchors are needed only to create the study.
_REPEATED = (
    *("name", "space", "data", "model", "epochs", "subset", "optimise", "sampler", "pruner", "seed"),
    *("timeout", "trial_timeout", "trial_memory", "checkpoints"),
)


@dataclass(frozen=True)
class Overrides:
    """The options of ``dropopt run`` that change a definition; None for those that were not given."""

    name: str | None = None
    n_trials: int | None = None
    timeout: float | None = None
    trial_timeout: float | None = None
    trial_memory: int | None = None
    checkpoints: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    seed: int | None = None
    space: str | None = None
    data: str | None = None
    model: str | None = None
    epochs: int | None = None
    subset: int | None = None
    optimise: str | None = None
    prior: str | None = None
    anchors: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by field."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def apply(self, study: Definition) -> Definition:
        """Return ``study`` with these options. The result is checked like any definition."""
        given = self.given
        values = {name: getattr(study, name) for name in type(study).model_fields}
        values |= {name: value for name, value in given.items() if name not in _SETTINGS}
        for option, (section, setting) in _SETTINGS.items():
            if option not in given:
                continue
            changed = values[section].model_dump() | {setting: given[option]}
            if option == "model":
                changed["options"] = {}  # the options of one network have no meaning for another
            values[section] = type(values[section]).parse(changed)
        return Definition.parse(values)

    def command_line(self) -> list[str]:
        """Return those options in ``_REPEATED`` that were given, as arguments of the command line."""
        options = {
            "study-name" if name == "name" else name.replace("_", "-"): getattr(self, name) for name in _REPEATED
        }
        return [part for option, value in options.items() if value is not None for part in (f"--{option}", str(value))]
