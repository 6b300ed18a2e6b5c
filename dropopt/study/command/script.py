"""Studies as scripts: ``study = Study(...)`` and, at the end, ``study.main()``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from rich.console import Console

from dropopt.config import ConfigError, DataConfig, ModelConfig, Optimise, TaskConfig, TrainConfig
from dropopt.study.command.compare import compare
from dropopt.study.command.notebook import StudyResult, confirm_here, run_here, script_of_caller
from dropopt.study.command.run import run, run_command
from dropopt.study.define.definition import Definition, Pruner, Sampler

if TYPE_CHECKING:
    from dropopt.study.confirm.results import Confirmation


class StudyFields(TypedDict, total=False):
    """What :class:`Study` takes, for editors and type checkers; its docstring describes them."""

    name: Required[str]
    data: DataConfig | Mapping[str, Any] | Callable[..., Any]
    model: ModelConfig | Mapping[str, Any] | Callable[..., Any]
    task: TaskConfig | Mapping[str, Any]
    train: TrainConfig | Mapping[str, Any]
    engine: Mapping[str, Any]
    space: str
    n_trials: int
    timeout: float | None
    trial_timeout: float | None
    trial_memory: int | None
    checkpoints: str | None
    keep_checkpoints: int
    sampler: Sampler
    pruner: Pruner
    seed: int
    optimise: Optimise
    prior: str | None
    anchors: bool
    portfolio: str


class Study(Definition):
    """A hyperparameter study: what is trained, what is searched and for how long.

    A script defines one study and runs it with :meth:`main`. ``dropopt run SCRIPT`` runs it too. Options on the command
    line override the fields. :meth:`run` runs it from Python, such as in a notebook, and returns the results.

    Args:
        name: Name of the study in its storage, 1 to 200 characters. Required.
        data: The data set and its split, a :class:`~dropopt.config.DataConfig` or a mapping of its fields, or a
            function of the script that returns the data. Default: scikit-learn's digits.
        model: The network, a :class:`~dropopt.config.ModelConfig` or a mapping of its fields, or a function or class of
            the script that builds the network. Default: a small CNN.
        task: The loss, the metric, and which of them is optimised, a :class:`~dropopt.config.TaskConfig` or a mapping
            of its fields; ``loss`` and ``metric`` may be functions (outputs, targets) of the script. Default:
            classification.
        train: How each trial is trained, a :class:`~dropopt.config.TrainConfig` or a mapping of its fields.
        engine: Settings of the engine that the space does not search, by name, such as ``{"pattern": "channel"}``.
        space: Name of a shipped search space, or a file, relative to the current folder or to the script.
            Default: ``"compact"``.
        n_trials: Total number of trials of the study, including earlier runs, at least 1. Default: 100.
        timeout: Seconds (above 0) after which no further trial starts. Default: None, no limit.
        trial_timeout: Seconds (above 0) after which a trial is ended and recorded as failed. Default: None, no limit.
        trial_memory: Megabytes of memory, at least 1, at which a trial is ended and recorded as failed. Linux only.
            Default: None, no limit.
        checkpoints: Folder of the trials' checkpoints, relative to the current folder. Default: None, a folder beside
            the file of the storage; no checkpoints if the storage is a server.
        keep_checkpoints: Number of pruned trials, and of trials ended by a limit, whose checkpoints are kept for
            ``dropopt resume-trial``, the latest ones, at least 0. Default: 0.
        sampler: ``"auto"`` (the default), ``"efficacy"``, ``"tpe"``, ``"gp"``, ``"cmaes"`` or ``"random"``. ``"auto"``
            is ``"efficacy"`` if the space has a blend of methods, else ``"tpe"``.
        pruner: ``"median"`` (the default), ``"forecast"``, ``"percentile"``, ``"hyperband"`` or ``"none"``.
        seed: Seed of the sampler and of the trials, at least 0. Default: 0.
        optimise: What counts, ``"loss"`` (the default) or ``"accuracy"``: the validation loss or 1 - the validation
            accuracy, smoothed over epochs, is minimised. Short for ``task={"objective": ...}``.
        prior: What an earlier study learned about the blend: ``"STUDY"`` in the same storage, ``"STUDY@STORAGE"``, or a
            file that ``dropopt efficacy`` wrote. Default: None.
        anchors: Whether the study begins with anchors: no dropout, plain dropout at customary rates and the engine's
            default. The best trial is compared with them. A study of fewer than 10 trials has no anchors. Default:
            True.
        portfolio: Configurations that did well on other data, with which a new study of 10 or more trials begins after
            its anchors: the name of a shipped portfolio, a YAML file, relative to the current folder or to the script,
            or ``"none"``. Default: ``"small_images"``.

    Raises:
        ConfigError: A field is unknown, missing or out of range.

    Example:
        >>> from dropopt.study import Study
        >>> study = Study(name="short", train={"epochs": 5}, n_trials=20, pruner="forecast")
        >>> study.train.epochs, study.data.name, study.sampler
        (5, 'digits', 'auto')
        >>> space = study.load_space()
        >>> [parameter.name for parameter in space.parameters][:3]
        ['r0', 'alpha', 'sites']
    """

    def __init__(self, **fields: Unpack[StudyFields]) -> None:
        super().__init__(**fields)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run this study as ``dropopt run`` does, then exit the program.

        Call it at the end of the script, below ``if __name__ == "__main__":``. Child processes import the script for
        its functions and must not run the study again.

        Args:
            arguments: Options of ``dropopt run``. Default: those of the program, ``sys.argv[1:]``.

        Raises:
            SystemExit: Always. The code is 0, 1 if the study failed, 2 for bad input, or 128 + the number of the signal
                that stopped it.
            ConfigError: The script calls it while it is imported.

        Example:
            >>> from dropopt.study import Study
            >>> study = Study(name="short", n_trials=20)
            >>> study.main(["--help"])
            Traceback (most recent call last):
            SystemExit: 0
        """
        _refuse_import("main")
        _refuse_notebook(arguments, "study.run() returns the results")
        run_command(run, self, arguments)

    def run(self, *, storage: str | os.PathLike[str] | None = None, n_jobs: int = -1) -> StudyResult:
        """Run this study, or continue it, and return the results.

        Functions of the study have to be in a file that can be imported: put those of a notebook into a file.

        Args:
            storage: The storage: a URL or a file. Default: as for ``dropopt run``.
            n_jobs: Trials at a time; -1 for one per core.

        Returns:
            The trials and the configuration of the best one.

        Raises:
            ConfigError: A setting, the data or the network cannot be used, or a script calls it while it is imported.
            KeyboardInterrupt: A signal stopped the study; the same call continues it.

        Example:
            ``best = Study(name="short", n_trials=20).run().best``
        """
        _refuse_import("run")
        place = None if storage is None else os.fspath(storage)
        return run_here(self, storage=place, n_jobs=n_jobs, script=script_of_caller(1))

    def confirm(
        self,
        *,
        top: int = 5,
        seeds: int = 5,
        optimise: Optimise | None = None,
        anchors: bool = True,
        again: bool = False,
        storage: str | os.PathLike[str] | None = None,
        n_jobs: int = -1,
    ) -> Confirmation:
        """Train the best configurations of this study again, on fresh seeds, and read the test set for the winner.

        It does what ``dropopt confirm`` does, and the study has to have been run. The test set is read once. The data
        and the folder of checkpoints that this study gives are used: the data may have been moved since the search.

        Args:
            top: Number of configurations of the search, those with the best posterior means, at least 1.
            seeds: Number of fresh seeds, at least 2. All configurations share them.
            optimise: What the winner is chosen by, ``"loss"`` or ``"accuracy"``. Default: what the study optimised.
            anchors: Whether the anchors are trained again too.
            again: Whether the test set is read although it was read before.
            storage: The storage: a URL or a file. Default: as for ``dropopt run``.
            n_jobs: Runs at a time; -1 for one per core.

        Returns:
            The configurations with their scores by seed, the winner, its test scores, and a verdict in words.

        Raises:
            ConfigError: The storage has no such study, the study has no result yet, an argument is out of range, or a
                script calls it while it is imported.
            StudyError: No configuration could be trained.
            KeyboardInterrupt: A signal stopped it; the same call continues it.

        Example:
            ``print(Study(name="short", n_trials=20).confirm(top=3).verdict)``
        """
        _refuse_import("confirm")
        return confirm_here(
            self,
            top=top,
            seeds=seeds,
            optimise=optimise,
            anchors=anchors,
            again=again,
            storage=None if storage is None else os.fspath(storage),
            n_jobs=n_jobs,
        )

    def compare(self, arms: Sequence[str], arguments: Sequence[str] | None = None) -> None:
        """Compare arms as ``dropopt compare`` does, with the data, network and training of this study; then exit.

        Args:
            arms: Search spaces, or names of studies in the storage. The command line may name others.
            arguments: Arguments of ``dropopt compare``. Default: those of the program, ``sys.argv[1:]``.

        Raises:
            SystemExit: Always, with a code like that of :meth:`main`.
            ConfigError: The script calls it while it is imported.

        Example:
            >>> from dropopt.study import Study
            >>> study = Study(name="short", n_trials=20)
            >>> study.compare(["compact", "dropout"], ["--help"])
            Traceback (most recent call last):
            SystemExit: 0
        """
        _refuse_import("compare")
        _refuse_notebook(arguments, "give the options of dropopt compare, as in study.compare([...], [])")
        run_command(compare, self, arguments, arms=list(arms))


def _refuse_import(method: str) -> None:
    """Raise :class:`ConfigError` if the ``method`` of a study is called while a module is imported.

    Child processes import the module for its functions, and each of them would run the study again.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        names = frame.f_globals
        module = names.get("__name__", "__main__")
        if frame.f_code.co_name == "<module>" and module != "__main__" and _is_module(module, names):
            raise ConfigError(f'{frame.f_code.co_filename}: put study.{method}() below: if __name__ == "__main__":')
        frame = frame.f_back


def _refuse_notebook(arguments: Sequence[str] | None, instead: str) -> None:
    """Raise :class:`ConfigError` in a cell of a notebook without ``arguments``: a kernel has others."""
    if arguments is None and Console().is_jupyter and not hasattr(sys.modules["__main__"], "__file__"):
        raise ConfigError(f"a notebook has no command line: {instead}")


def _is_module(name: str, names: dict[str, Any]) -> bool:
    """Whether ``names`` are those of the module ``name``, not a copy of them as in a doctest."""
    return name in sys.modules and vars(sys.modules[name]) is names
