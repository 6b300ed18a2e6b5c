"""``dropopt worker``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dropopt.study.command import options

if TYPE_CHECKING:
    from dropopt.config import RunConfig
    from dropopt.study.command.session import Request
    from dropopt.study.define.space import Space
    from dropopt.study.store.patient import Patience


def worker(
    script: options.WorkerScript = None,
    study: options.StudyName = None,
    storage: options.Storage = None,
    n_jobs: options.NJobs = -1,
    timeout: options.Timeout = None,
    checkpoints: options.Checkpoints = None,
    artifacts: options.Artifacts = None,
    storage_patience: options.StoragePatience = 120.0,
    grace: options.Grace = 30.0,
    print_for: options.Print = None,
    workers: options.Workers = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    memory: options.Memory = None,
    time: options.Time = None,
    image: options.Image = None,
    quiet: options.Quiet = False,
) -> None:
    """Join a study that dropopt run has begun, from any machine.

    The settings and the search space are read from the storage. The study's own functions are imported from the script.
    """
    asked = {"workers": workers, "cpus": cpus, "gpus": gpus, "memory": memory, "time": time, "image": image}
    given = {name: value for name, value in asked.items() if value is not None}
    if print_for is not None:
        typed = {"n-jobs": (n_jobs, -1), "timeout": (timeout, None), "storage-patience": (storage_patience, 120.0)}
        typed["grace"] = (grace, 30.0)
        _print(print_for, study, storage, script, checkpoints, typed, given)
        return
    if given:
        from dropopt.config import ConfigError

        raise ConfigError(f"--{next(iter(given))} is for --print slurm or --print kubernetes; add one of them")
    from dropopt.study.command import session
    from dropopt.study.define.script import load
    from dropopt.study.show.console import make_console, say
    from dropopt.study.store.patient import Patience

    path = load(script)[1] if script is not None else Path()
    resume = ["dropopt", "worker", *([script] if script else [])]
    console = make_console(quiet=quiet)
    patience = Patience(storage_patience, lambda line: say(console, line, "yellow"))
    request = stored_request(study, storage, n_jobs, timeout, checkpoints, path, resume, patience)
    request = replace(request, storage_patience=storage_patience, grace=grace, quiet=quiet, artifacts=artifacts)
    code = session.run(request)
    if code:
        raise typer.Exit(code)


def _print(
    scheduler: options.Scheduler,
    study: str | None,
    storage: str | None,
    script: str | None,
    checkpoints: str | None,
    typed: dict[str, tuple[Any, Any]],
    given: dict[str, Any],
) -> None:
    """Print what ``scheduler`` needs to run workers; ``typed`` has further options with their defaults."""
    from dropopt.study.command.manifests import Job, kubernetes, slurm

    others = [
        part for name, (value, default) in typed.items() if value != default for part in (f"--{name}", str(value))
    ]
    job = Job(study, storage, script, tuple(others), checkpoints, **given)
    print(slurm(job) if scheduler is options.Scheduler.SLURM else kubernetes(job), end="")


def stored_request(
    name: str | None,
    storage: str | None,
    n_jobs: int,
    timeout: float | None,
    checkpoints: str | None,
    script: Path,
    resume: list[str],
    patience: Patience | None = None,
) -> Request:
    """Return the request to run the study with the settings in the storage.

    Args:
        name: Study; None for the only one in the storage.
        storage: Storage; None for the default.
        n_jobs: Number of trials at a time.
        timeout: Seconds after which no trial starts.
        checkpoints: Folder of the checkpoints.
        script: Script that defines the study's own functions; an empty path if none was given.
        resume: Words of the command that continues.
        patience: How long to wait for a storage that is away; None: not at all.
    """
    from dropopt.config import ConfigError, RunConfig
    from dropopt.study.command.session import Request
    from dropopt.study.define.definition import Definition
    from dropopt.study.define.space import Space
    from dropopt.study.search.portfolio import Portfolio
    from dropopt.study.store.code import code_of
    from dropopt.study.store.keys import BASE, PLAN, PORTFOLIO, SPACE, SPACE_TEXT
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import find_study
    from dropopt.study.store.url import resolve, storage_hint

    with closing(Opened(resolve(storage), create=False, patience=patience)) as opened:
        found = find_study(opened.storage, name)
        recorded = code_of(found, sys.maxsize)
        name, facts = found.study_name, found.user_attrs
    if any(key not in facts for key in (BASE, PLAN, SPACE, SPACE_TEXT)):
        raise ConfigError(f"study {name!r} has no stored settings for workers; start or resume it with: dropopt run")
    base = RunConfig.parse(facts[BASE])
    _settle(base, name, script, recorded)
    with tempfile.TemporaryDirectory() as folder:
        if Path(facts[SPACE]).name != facts[SPACE]:
            raise ConfigError(f"study {name!r} has the space {facts[SPACE]!r}, which is not the name of a file")
        file = Path(folder) / f"{facts[SPACE]}.yaml"
        file.write_text(facts[SPACE_TEXT], encoding="utf-8")
        space = Space.load(file).bound(base)

    @dataclass(frozen=True)
    class Stored(Request):
        """A request whose space and configuration come from the storage."""

        @cached_property
        def space(self) -> Space:
            return space

        @cached_property
        def base(self) -> RunConfig:
            return base

        @cached_property
        def portfolio(self) -> Portfolio | None:
            return Portfolio.parse(facts[PORTFOLIO]) if PORTFOLIO in facts else None

        @property
        def plan(self) -> dict[str, Any]:
            return dict(facts[PLAN])  # only dropopt run changes it

    definition = Definition(name=name, timeout=timeout, checkpoints=checkpoints, **facts[PLAN])
    line = shlex.join([*resume, "--study", name]) + storage_hint(storage)
    return Stored(definition, script, storage, n_jobs, line, extendable=False)


def _settle(base: RunConfig, name: str, script: Path, recorded: Any) -> None:
    """Import the functions that the study names from ``script``; nothing is imported unless the user has named it."""
    from dropopt.config import ConfigError
    from dropopt.owncode import shipped_folder
    from dropopt.trust import own_modules, settle

    names = base.names
    if script != Path():
        settle(names, recorded, given=f"study {name!r}", code=(script,), shipped=shipped_folder("studies"))
    elif modules := own_modules(names):
        raise ConfigError(f"study {name!r} uses functions of {', '.join(modules)}; type: dropopt worker SCRIPT ...")
