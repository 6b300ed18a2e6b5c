"""What a study is: its data, network, training, space and how far to go; written as a short script."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dropopt.config import Config, ConfigError, DataConfig, ModelConfig, RunConfig, TrainConfig, explain
from dropopt.owncode import own_errors
from dropopt.study.define import shipped
from dropopt.study.define.space import Space

Sampler = Literal["auto", "efficacy", "tpe", "gp", "cmaes", "random"]
Pruner = Literal["median", "forecast", "percentile", "hyperband", "none"]
Seed = Annotated[int, Field(ge=0)]


#: What a script's name begins with while it is read for its study.
_LOADED = "dropopt_study_"


class Definition(Config):
    """What a study is, as plain data. Scripts write it as :class:`dropopt.study.Study`, which can also run it.

    ``data`` and ``model`` may be functions of the script itself: ``Study(name="mine", data=data, model=model)``.
    Options on the command line override what is given here; they carry Optuna's own names.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    #: Settings of the engine that the space leaves alone.
    engine: Mapping[str, Any] = Field(default_factory=dict)
    #: A shipped space's name, or a file (from here, or beside the script).
    space: str = "compact"
    n_trials: Annotated[int, Field(ge=1)] = 100
    timeout: Annotated[float, Field(gt=0)] | None = None
    sampler: Sampler = "auto"
    pruner: Pruner = "median"
    seed: Seed = 0
    #: STUDY, STUDY@STORAGE or a file of ``dropopt efficacy``: what is known of the blend before the first trial.
    prior: str | None = None

    def __init__(self, **values: Any) -> None:
        values |= {section: _by_name(section, values[section]) for section in ("data", "model") if section in values}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"study: {explain(error, type(self), values)}") from None

    def load_space(self, directory: Path | None = None) -> Space:
        """The search space, looked for from here, beside the script, then among the shipped ones."""
        return Space.load(self.space, beside=directory)

    def base(self, space: Space) -> RunConfig:
        """What all trials share; a trial's parameters go on top."""
        engine = dict(self.engine)
        if "kind" in engine and space.engine.__name__ != "Baseline":
            raise ConfigError(f"study {self.name!r} sets a baseline, and space {space.name!r} searches the engine")
        own: dict[str, Any] = {"engine": engine} if engine else {}
        run = RunConfig.parse({"data": self.data, "model": self.model, "train": self.train, **own})
        return space.base(run)


def load(name: str) -> tuple[Definition, Path]:
    """The study that a script or a shipped name defines, and the script.

    A script is Python and is run, under a name that is not ``__main__``; its folder is put on the import
    path, as Python does, so that ``module:function`` finds what lies beside it.
    """
    path = shipped.find("studies", name).resolve()
    add_to_path(path.parent)
    spec = importlib.util.spec_from_file_location(_LOADED + path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with own_errors("reading it"):
            spec.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__
    studies = list({id(v): v for v in vars(module).values() if isinstance(v, Definition)}.values())
    if len(studies) != 1:
        raise ConfigError(f"{path} must define one Study (study = Study(...)), found {len(studies)}")
    return studies[0], path


def _by_name(section: str, given: Any) -> Any:
    """A section in which a function stands itself, with its ``module:function`` in its place."""
    if callable(given):
        given = {"name": given}
    if not isinstance(given, Mapping) or not callable(given.get("name")):
        return given
    function = given["name"]
    name = getattr(function, "__qualname__", "")
    if not name.isidentifier():
        raise ConfigError(f"study: {section} must be a function or a class at the top of a file, got {function!r}")
    module = function.__module__
    if module == "__main__" or module.startswith(_LOADED):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None:
            raise ConfigError(f"study: {section}: put {name!r} in a file; child processes import it from there")
        module = Path(file).stem
    return {**given, "name": f"{module}:{name}"}


def add_to_path(directory: Path) -> None:
    """Make what lies in ``directory`` importable, here and in child processes."""
    text = str(directory)
    if text not in sys.path:
        sys.path.insert(0, text)
