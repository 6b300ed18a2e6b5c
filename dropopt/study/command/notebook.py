"""Running and confirming a study from Python, such as in a notebook, with results in place of an exit code."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, Optimise
from dropopt.export import Exported, save
from dropopt.numbers import quantity
from dropopt.study.define.definition import Definition

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from dropopt.study.confirm.results import Confirmation


@dataclass(frozen=True)
class StudyResult:
    """What :meth:`dropopt.study.Study.run` returns.

    Attributes:
        name: The name of the study.
        storage: The URL of its storage, with which ``optuna.load_study`` opens it.
        trials: Its trials, in the order of their numbers.
        best: The configuration and the provenance of the best trial, as ``dropopt.load`` returns them; None if no trial
            is complete.
    """

    name: str
    storage: str
    trials: list[FrozenTrial]
    best: Exported | None

    @property
    def best_value(self) -> float | None:
        """The value of the best trial, which the study minimised; None if no trial is complete."""
        return None if self.best is None else self.best.provenance["value"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the best configuration to a file, as ``dropopt export`` does.

        Raises:
            ConfigError: No trial is complete, or the file cannot be written.
        """
        if self.best is None:
            raise ConfigError(f"study {self.name!r} has no completed trial to save")
        save(path, self.best.run, self.best.provenance)

    def __repr__(self) -> str:
        from dropopt.study.store.scale import Scale

        if self.best is None or self.best_value is None:
            value = "none complete"
        else:
            scale = Scale.of_task(self.best.run.task)
            value = f"best {scale.name} {scale.text(self.best_value)}"
        return f"StudyResult({self.name!r}, {quantity(len(self.trials), 'trial')}, {value})"


def run_here(definition: Definition, *, storage: str | None, n_jobs: int, script: Path) -> StudyResult:
    """Run ``definition`` as ``dropopt run`` does, and read its results from the storage."""
    from dropopt.study.after.configuration import best_exportable
    from dropopt.study.after.export import exported
    from dropopt.study.run.errors import StudyError
    from dropopt.study.session import session
    from dropopt.study.session.request import Request
    from dropopt.study.store.errors import StorageError
    from dropopt.study.store.opening import opened_study
    from dropopt.study.store.url import resolve, storage_hint
    from dropopt.trust import remember, sources

    remember(sources(definition.names).values())
    # No command is known that makes this call: the file may be a notebook, or define several studies.
    request = Request(definition, script, storage, n_jobs, "make the same call again", extendable=False)
    try:
        code = session.run(request)
    except (ConfigError, StudyError, StorageError) as error:
        raise type(error)(_with_arguments(str(error))) from None
    if code > 128:  # a signal
        raise KeyboardInterrupt
    with opened_study(storage, definition.name) as study:
        trials = study.get_trials()
        best: Exported | None = None
        if (trial := best_exportable(study)) is not None:
            configuration, provenance = exported(study, trial, storage_hint(storage))
            best = Exported(configuration.run, provenance)
    return StudyResult(definition.name, resolve(storage), trials, best)


def confirm_here(
    definition: Definition,
    *,
    top: int,
    seeds: int,
    optimise: Optimise | None,
    anchors: bool,
    again: bool,
    storage: str | None,
    n_jobs: int,
) -> Confirmation:
    """Confirm the study that ``definition`` names as ``dropopt confirm`` does."""
    from dropopt.study.run.errors import StudyError
    from dropopt.study.session.confirming import ConfirmRequest, confirm
    from dropopt.study.show.confirmation import show_confirmation
    from dropopt.study.show.console import make_console
    from dropopt.study.store.errors import StorageError
    from dropopt.trust import remember, sources

    remember(sources(definition.names).values())
    try:
        request = ConfirmRequest(
            study=definition.name,
            storage=storage,
            top=top,
            seeds=seeds,
            n_jobs=n_jobs,
            optimise=optimise,
            anchors=anchors,
            again=again,
            checkpoints=definition.checkpoints,
            data=definition.data.name if "data" in definition.model_fields_set else None,
        )
        console = make_console()
        code, found = confirm(request, console)
    except (ConfigError, StudyError, StorageError) as error:
        raise type(error)(_with_arguments(str(error))) from None
    if code > 128:  # a signal
        raise KeyboardInterrupt
    if found is None:
        raise StudyError(
            f"no configuration of study {definition.name!r} could be trained; the reasons are printed above"
        )
    show_confirmation(console, found)
    return found


def _with_arguments(message: str) -> str:
    """Name the arguments of Python in a ``message`` that names options of the command: ``name=`` for --study-name."""

    def argument(option: re.Match[str]) -> str:
        name = option[1].removeprefix("study-").replace("-", "_")
        return f"{name}=" if name in {*Definition.model_fields, "storage", "n_jobs"} else option[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", argument, message)


def script_of_caller(depth: int) -> Path:
    """The file of the function ``depth`` frames above the caller; a name in the current folder if it has none."""
    names: dict[str, Any] = sys._getframe(depth + 1).f_globals
    return Path(names.get("__file__") or "notebook").resolve()
