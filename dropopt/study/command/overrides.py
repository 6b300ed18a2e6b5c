"""Options of the command line that override the definition of a study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Overrides:
    """The options of ``dropopt run`` that change a definition; None for those that were not given."""

    name: str | None = None
    n_trials: int | None = None
    timeout: float | None = None
    trial_timeout: float | None = None
    trial_memory: int | None = None
    checkpoints: str | None = None
    keep_checkpoints: int | None = None
    sampler: str | None = None
    pruner: str | None = None
    seed: int | None = None
    space: str | None = None
    data: str | None = None
    model: str | None = None
    epochs: int | None = None
    subset: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    device: str | None = None
    set: tuple[str, ...] | None = None  # settings as text: section.name=value
    optimise: str | None = None
    prior: str | None = None
    anchors: bool | None = None
    portfolio: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by field."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def apply(self, study: Definition) -> Definition:
        """Return ``study`` with these options. The result is checked like any definition."""
        given = self.given
        values = {name: getattr(study, name) for name in type(study).model_fields}
        values |= {name: value for name, value in given.items() if name not in (*_SETTINGS, "set")}
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
        for one in self._settings() if self.set or self.batch_size is not None else ():
            searched = any((p.section, p.setting) == (one.section, one.name) for p in space.parameters)
            if searched or one.name in space.fixed.get(one.section, {}):
                raise ConfigError(
                    f"{one.section}.{one.name} is {'searched' if searched else 'fixed'} by space {space.name!r}, so it "
                    "cannot be set; give another --space, or change a copy of its file"
                )

    def _settings(self) -> list[Setting]:
        """The settings that the options change."""
        given = self.given
        by_option = [Setting(*where, given[option]) for option, where in _SETTINGS.items() if option in given]
        return by_option + [Setting.read(text) for text in self.set or ()]

    def command_line(self, *, anew: bool = False) -> list[str]:
        """Return the options that were given, as arguments of the command line.

        Args:
            anew: Whether to include the options that only a new study needs, and the number of trials.
        """
        names = (*_REPEATED, "n_trials", "prior", "portfolio") if anew else _REPEATED
        line = []
        for name in names:
            option = "study-name" if name == "name" else name.replace("_", "-")
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else () if given is None else (given,):
                line += [f"--{option}", str(value)]
        if anew and self.anchors is not None:
            line.append("--anchors" if self.anchors else "--no-anchors")
        return line
