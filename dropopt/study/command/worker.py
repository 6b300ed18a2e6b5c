"""``dropopt worker``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dropopt.study.command import options
from dropopt.study.store.lease import GRACE
from dropopt.study.store.patient import PATIENCE


def worker(
    script: options.WorkerScript = None,
    study: options.StudyName = None,
    storage: options.Storage = None,
    n_jobs: options.NJobs = -1,
    timeout: options.Timeout = None,
    data: options.MovedData = None,
    checkpoints: options.Checkpoints = None,
    artifacts: options.Artifacts = None,
    storage_patience: options.StoragePatience = PATIENCE,
    grace: options.Grace = GRACE,
    print_for: options.Print = None,
    workers: options.Workers = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    memory: options.Memory = None,
    time: options.Time = None,
    image: options.Image = None,
    quiet: options.Quiet = False,
) -> int:
    """Join a study that dropopt run has begun, from any machine.

    The settings and the search space are read from the storage. The study's own functions are imported from the script.
    """
    asked = {"workers": workers, "cpus": cpus, "gpus": gpus, "memory": memory, "time": time, "image": image}
    given = {name: value for name, value in asked.items() if value is not None}
    others = options.typed(
        n_jobs=(n_jobs, -1),
        timeout=(timeout, None),
        data=(data, None),
        storage_patience=(storage_patience, PATIENCE),
        grace=(grace, GRACE),
    )
    if print_for is not None:
        _print(print_for, study, storage, script, checkpoints, artifacts, others, given)
        return 0
    if given:
        from dropopt.config import ConfigError

        raise ConfigError(f"--{next(iter(given))} is for --print slurm or --print kubernetes; add one of them")
    from dropopt.study.define.script import load
    from dropopt.study.session import session
    from dropopt.study.session.joining import stored_request
    from dropopt.study.show.console import make_console, say
    from dropopt.study.store.patient import Patience

    path = load(script)[1] if script is not None else Path()
    resume = ["dropopt", "worker", *([script] if script else []), *others]
    resume += options.typed(artifacts=(artifacts, None), checkpoints=(checkpoints, None))
    console = make_console(quiet=quiet)
    patience = Patience(storage_patience, lambda line: say(console, line, "yellow"))
    request = stored_request(study, storage, n_jobs, timeout, checkpoints, path, resume, patience, data=data)
    request = replace(request, storage_patience=storage_patience, grace=grace, quiet=quiet, artifacts=artifacts)
    return session.run(request)


def _print(
    scheduler: options.Scheduler,
    study: str | None,
    storage: str | None,
    script: str | None,
    checkpoints: str | None,
    artifacts: Path | None,
    others: list[str],
    given: dict[str, Any],
) -> None:
    """Print what ``scheduler`` needs to run workers; ``others`` are further options."""
    from dropopt.study.command.manifests import Job, kubernetes, slurm

    files = None if artifacts is None else str(artifacts)
    job = Job(study, storage, script, tuple(others), checkpoints, files, **given)
    print(slurm(job) if scheduler is options.Scheduler.SLURM else kubernetes(job), end="")
