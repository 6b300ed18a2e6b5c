"""``dropopt worker``."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dropopt.study.command import options

if TYPE_CHECKING:
    from dropopt.config import RunConfig
    from dropopt.study.command.session import Request
    from dropopt.study.define.space import Space


def worker(
    script: options.WorkerScript = None,
    study: options.StudyName = None,
    storage: options.Storage = None,
    n_jobs: options.NJobs = -1,
    timeout: options.Timeout = None,
    checkpoints: options.Checkpoints = None,
    storage_patience: options.StoragePatience = 120.0,
    grace: options.Grace = 30.0,
) -> None:
    """Join a study that dropopt run has begun, from any machine.

    The settings and the search space are read from the storage. The study's own functions are imported from the script.
    """
    from dropopt.study.command import session
    from dropopt.study.define.script import load

    path = load(script)[1] if script is not None else Path()
    resume = ["dropopt", "worker", *([script] if script else [])]
    request = _request(study, storage, n_jobs, timeout, checkpoints, path, resume)
    code = session.run(replace(request, storage_patience=storage_patience, grace=grace))
    if code:
        raise typer.Exit(code)


def _request(
    name: str | None,
    storage: str | None,
    n_jobs: int,
    timeout: float | None,
    checkpoints: str | None,
    script: Path,
    resume: list[str],
) -> Request:
    """The request to do what the study in the storage says."""
    from dropopt.config import ConfigError, RunConfig
    from dropopt.study.command.session import Request
    from dropopt.study.define.definition import Definition
    from dropopt.study.define.space import Space
    from dropopt.study.store.keys import BASE, PLAN, SPACE, SPACE_TEXT
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import find_study
    from dropopt.study.store.url import redact, resolve

    with closing(Opened(resolve(storage), create=False)) as opened:
        found = find_study(opened.storage, name)
        name, facts = found.study_name, found.user_attrs
    if any(key not in facts for key in (BASE, PLAN, SPACE, SPACE_TEXT)):
        raise ConfigError(f"study {name!r} does not say how to run it; begin or go on with it with: dropopt run")
    base = RunConfig.parse(facts[BASE])
    if script == Path():
        _check_no_own_code(base)
    with tempfile.TemporaryDirectory() as folder:
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

    definition = Definition(name=name, timeout=timeout, checkpoints=checkpoints, **facts[PLAN])
    line = [*resume, "--study", name, *([] if storage is None else ["--storage", redact(storage)])]
    return Stored(definition, script, storage, n_jobs, shlex.join(line))


def _check_no_own_code(base: RunConfig) -> None:
    """Nothing that a storage names is imported, unless the user has named the script."""
    from dropopt.config import ConfigError

    kinds = ("folder", "numpy", "torchvision", "timm")
    for section, name in (("data", base.data.name), ("network", base.model.name)):
        kind, colon, _ = name.partition(":")
        if colon and kind not in kinds:
            raise ConfigError(f"the {section} of this study is the function {name}; type: dropopt worker SCRIPT ...")
