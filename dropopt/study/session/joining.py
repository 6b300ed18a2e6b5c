"""Joining a study that another session has begun, with the settings in its storage."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.definition import Definition
from dropopt.study.define.space import Space
from dropopt.study.session.request import Request, Settings
from dropopt.study.session.searched import moved
from dropopt.study.store.code import code_of
from dropopt.study.store.keys import BASE, PLAN, SPACE, SPACE_TEXT
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import Patience
from dropopt.study.store.queries import find_study
from dropopt.study.store.url import resolve, storage_hint
from dropopt.trust import own_modules, settle


@contextmanager
def _stored(study: str) -> Iterator[None]:
    """Name the study in an error about its settings, which another program or version may have stored."""
    try:
        yield
    except ConfigError as error:
        reason = str(error).removeprefix("study: ")
        raise ConfigError(
            f"study {study!r} has settings that this version of dropopt does not know: {reason}"
        ) from None


def stored_request(
    name: str | None,
    storage: str | None,
    n_jobs: int,
    timeout: float | None,
    checkpoints: str | None,
    script: Path,
    resume: list[str],
    patience: Patience | None = None,
    *,
    data: str | None = None,
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
        data: Where the folder or the NumPy file of the study's data is now; None: as the study says.
    """
    with closing(Opened(resolve(storage), create=False, patience=patience)) as opened:
        found = find_study(opened.storage, name)
        recorded = code_of(found)
        name, facts = found.study_name, found.user_attrs
    if any(key not in facts for key in (BASE, PLAN, SPACE, SPACE_TEXT)):
        raise ConfigError(f"study {name!r} has no stored settings for workers; start or resume it with: dropopt run")
    with _stored(name):
        base = RunConfig.parse(facts[BASE])
        Definition.parse({**facts[PLAN], "name": name})
    if data is not None:
        base = moved(base, data)
    line = shlex.join([*resume, "--study", name]) + storage_hint(storage)
    if script != Path():
        settle(base.names, recorded, given=f"study {name!r}", code=(script,))
    elif modules := own_modules(base.names):  # nothing is imported unless the user has named it
        raise ConfigError(f"study {name!r} uses functions of {', '.join(modules)}; type: {line} SCRIPT")
    with tempfile.TemporaryDirectory() as folder:
        if Path(facts[SPACE]).name != facts[SPACE] or "\0" in facts[SPACE]:
            raise ConfigError(f"study {name!r} has the space {facts[SPACE]!r}, which is not the name of a file")
        file = Path(folder) / f"{facts[SPACE]}.yaml"
        file.write_text(facts[SPACE_TEXT], encoding="utf-8")
        space = Space.load(file).bound(base)

    settings = Settings(space, base, dict(facts[PLAN]))  # only dropopt run changes the plan
    own = {"name": name, "timeout": timeout, "checkpoints": checkpoints}
    definition = Definition.parse({**facts[PLAN], **own})
    return Request(definition, script, storage, n_jobs, line, extendable=False, stored=settings)
