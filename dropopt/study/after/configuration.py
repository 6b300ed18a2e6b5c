"""The configuration of a trial: the one that ``dropopt run`` stored, or what the parameters of another trial say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import STAGES, Baseline, ConfigError, EngineConfig, RunConfig, TrainConfig
from dropopt.study.store.keys import BASE, CLASSES, CONFIG, MESSAGE
from dropopt.study.store.queries import best, is_maximized


@dataclass(frozen=True)
class Configuration:
    """The configuration of a trial.

    Attributes:
        run: The configuration.
        stored: Whether the trial holds it as a whole. If not, it was built from the trial's parameters, and the other
            settings have their defaults.
        unknown: The parameters of the trial that are no settings of dropopt.
        foreign: Whether another program ran the trial.
    """

    run: RunConfig
    stored: bool = True
    unknown: tuple[str, ...] = ()
    foreign: bool = False

    @property
    def notice(self) -> str:
        """What a user should know about the configuration; an empty string if nothing."""
        if self.stored and self.foreign:
            return (
                "dropopt did not run this trial: dropopt train would use the data and the network that its stored "
                f"configuration names, {self.run.data.name} and {self.run.model.name}, which may be others than the "
                "trial's"
            )
        if self.stored:
            return ""
        rest = f" (dropopt has no setting {', '.join(self.unknown)})" if self.unknown else ""
        return (
            f"dropopt did not run this trial: the settings among its parameters are used{rest}, and defaults for the "
            "data, the network and all other settings"
        )


def configuration_of(study: optuna.Study, trial: FrozenTrial) -> Configuration:
    """The configuration of ``trial``.

    A trial of a script that uses Optuna itself has no stored configuration. Its parameters whose names are settings of
    the engine or of training are then used, as ``Space.suggest`` names them.

    Raises:
        ConfigError: The trial holds no configuration, and no parameter of it is a setting; or it is not valid.
    """
    where = f"trial {trial.number} of study {study.study_name!r}"
    stored = trial.user_attrs.get(CONFIG)
    if stored is not None:
        if not isinstance(stored, dict):
            raise ConfigError(f"{where}: its user attribute {CONFIG!r} must be a mapping, got {stored!r:.100}")
        try:
            return Configuration(RunConfig.parse(stored), foreign=not {BASE, CLASSES} & study.user_attrs.keys())
        except ConfigError as error:
            raise ConfigError(f"{where}: its user attribute {CONFIG!r} is not a configuration: {error}") from None
    if BASE in study.user_attrs:  # a study of dropopt
        complete = trial.state.name == "COMPLETE"  # such a trial of dropopt has a configuration
        other = best_exportable(study)
        name = "another --trial" if other is None else f"--trial {other.number}, the best that has one"
        why = f"another program has added it; give {name}" if complete else trial.state.name
        raise ConfigError(f"{where} has no configuration to export: {trial.user_attrs.get(MESSAGE) or why}")
    try:
        sections, unknown = _settings(trial.params)
        run = RunConfig.parse(sections)
    except ConfigError as error:
        raise ConfigError(f"{where}: its parameters are not a configuration: {error}") from None
    if not sections:
        raise ConfigError(
            f"{where} has no configuration to export: its parameters are {', '.join(trial.params) or 'none'}, and none "
            "is a setting of dropopt; run the study with dropopt run, name the parameters after settings such as r0 or "
            f"lr, or store the whole configuration: trial.set_user_attr({CONFIG!r}, run.model_dump(mode='json'))"
        )
    return Configuration(run, stored=False, unknown=unknown, foreign=True)


def is_exportable(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether ``trial`` may have a configuration: in a study of dropopt, only a trial that dropopt ran has one."""
    return CONFIG in trial.user_attrs or BASE not in study.user_attrs


def best_exportable(study: optuna.Study) -> FrozenTrial | None:
    """Return the best trial of a study with one objective that may have a configuration; None if there is none."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if is_exportable(study, trial)]
    return best(trials, maximize=is_maximized(study))


def _settings(parameters: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The parameters that are settings, by section, and the names of the others.

    Raises:
        ConfigError: Two parameters are the same setting.
    """
    engine = Baseline if "kind" in parameters else EngineConfig
    sections: dict[str, dict[str, Any]] = {}
    unknown: list[str] = []
    first: dict[str, tuple[str, int | None]] = {}
    for name, value in parameters.items():
        setting, stage = _staged(name, parameters.get("optimizer"))
        section = next(
            (key for key, model in (("engine", engine), ("train", TrainConfig)) if setting in model.model_fields), None
        )
        if section is None:
            unknown.append(name)
            continue
        known, seen = first.setdefault(setting, (name, stage))
        if name != known and (stage is None or seen is None):
            raise ConfigError(f"{known} and {name} are the same setting")
        if stage is None:
            sections.setdefault(section, {})[setting] = value
        else:
            sections.setdefault(section, {}).setdefault(setting, [None] * len(STAGES))[stage] = value
    return sections, tuple(unknown)


def _staged(name: str, optimizer: Any) -> tuple[str, int | None]:
    """The setting of a parameter and its stage: ``w_pfid_late`` is the last stage of ``w_pfid``.

    ``lr_sgd`` is the learning rate if the trial has this optimizer, or none.
    """
    setting, _, last = name.rpartition("_")
    if last in STAGES and setting in EngineConfig.model_fields:
        return setting, STAGES.index(last)
    if last in ("sgd", "adamw") and setting in TrainConfig.model_fields and optimizer in (last, None):
        return setting, None
    return name, None
