"""The definition of a study as plain data: data set, network, training, search space, and number of trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from dropopt.config import Config, ConfigError, DataConfig, ModelConfig, Optimise, RunConfig, TaskConfig, TrainConfig
from dropopt.explain import explain
from dropopt.owncode import name_of
from dropopt.study.define.space import Space

Sampler = Literal["auto", "efficacy", "tpe", "gp", "cmaes", "random"]
Pruner = Literal["median", "forecast", "percentile", "hyperband", "none"]
Seed = Annotated[int, Field(ge=0)]


class Definition(Config):
    """The definition of a study. Scripts use its subclass :class:`dropopt.study.Study`, which can also run it.

    The docstring of that class describes the fields.

    ``data`` and ``model`` may be functions of the script itself: ``Study(name="mine", data=data, model=model)``.
    Command-line options override these settings. A setting that Optuna has too has Optuna's name.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    train: TrainConfig = TrainConfig()
    engine: Mapping[str, Any] = Field(default_factory=dict)
    space: str = "compact"
    n_trials: Annotated[int, Field(ge=1)] = 100
    timeout: Annotated[float, Field(gt=0)] | None = None
    trial_timeout: Annotated[float, Field(gt=0)] | None = None
    trial_memory: Annotated[int, Field(ge=1)] | None = None
    checkpoints: str | None = None
    keep_checkpoints: Annotated[int, Field(ge=0)] = 0
    sampler: Sampler = "auto"
    pruner: Pruner = "median"
    seed: Seed = 0
    prior: str | None = None
    anchors: bool = True
    portfolio: str = "small_images"

    def __init__(self, **values: Any) -> None:
        values |= {section: _by_name(section, values[section]) for section in ("data", "model") if section in values}
        if isinstance(values.get("task"), Mapping):
            values["task"] = {
                name: name_of(value, f"study: task.{name}") if callable(value) else value
                for name, value in values["task"].items()
            }
        if "optimise" in values:
            values["task"] = _with_optimise(values.get("task", {}), values.pop("optimise"))
        try:
            super().__init__(**values)
        except ValidationError as error:
            reason = explain(error, type(self), values, short=["optimise"])
            raise ConfigError(f"study: {reason}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that may name a function of the user, as ``module:function``."""
        return RunConfig(data=self.data, model=self.model, task=self.task).names

    def load_space(self, directory: Path | None = None) -> Space:
        """Load the search space: a file in the current folder or in ``directory``, else a shipped space.

        If a range depends on another setting, such as the optimizer, the range for this study's value is used.
        """
        return Space.load(self.space, beside=directory).bound(self._run())

    def base(self, space: Space) -> RunConfig:
        """Return the configuration that all trials share, to which each trial adds its parameters."""
        engine = dict(self.engine)
        if "kind" in engine and space.engine.__name__ != "Baseline":
            raise ConfigError(
                f"study {self.name!r} sets the baseline engine.kind = {engine['kind']!r}, but space {space.name!r} "
                "searches the dropout engine; remove engine.kind or choose a space of baselines"
            )
        searched = {one.setting for one in space.parameters if one.section == "engine"}
        if both := sorted(searched & engine.keys() - {"kind"}):
            raise ConfigError(
                f"study {self.name!r} sets engine.{both[0]}, which space {space.name!r} searches; remove one of the two"
            )
        return space.base(self._run())

    def unused(self, space: Space) -> list[str]:
        """Name the settings of training that trials do not take from the study, and why, one in each line."""
        default = TrainConfig().model_dump()
        given = {name: value for name, value in self.train.model_dump().items() if value != default[name]}
        searched = {one.setting for one in space.parameters if one.section == "train"}
        why = dict.fromkeys(sorted(searched), f"space {space.name} searches it")
        why["seed"] = "each trial has a training seed of its own, derived from that of the study (--seed)"
        return [f"train.{name} = {given[name]} is not used: {reason}" for name, reason in why.items() if name in given]

    def _run(self) -> RunConfig:
        """Return the settings of this study, without those of its space."""
        engine: dict[str, Any] = {"engine": dict(self.engine)} if self.engine else {}
        return RunConfig.parse(
            {"data": self.data, "model": self.model, "task": self.task, "train": self.train, **engine}
        )


def _with_optimise(task: Any, optimise: Any) -> Any:
    """Return the settings of the task, judged by the loss or by its metric."""
    if optimise not in get_args(Optimise):
        raise ConfigError(f"optimise must be one of {', '.join(get_args(Optimise))}, got {optimise!r}")
    settings = task.model_dump() if isinstance(task, TaskConfig) else task
    if not isinstance(settings, Mapping):
        return task
    return {**settings, "objective": "loss" if optimise == "loss" else "metric"}


def _by_name(section: str, given: Any) -> Any:
    """Return the settings of ``section``, with ``module:function`` in place of a function."""
    if not (callable(given) or isinstance(given, str | Mapping | Config)):
        raise ConfigError(
            f"study: {section} must be a function that returns what is meant, or a mapping of settings, got "
            f"{type(given).__name__}"
        )
    settings = {"name": given} if callable(given) else given
    if not isinstance(settings, Mapping) or not callable(settings.get("name")):
        return given
    return {**settings, "name": name_of(settings["name"], f"study: {section}")}
