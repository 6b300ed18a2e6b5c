"""What a scheduler needs to run workers: a SLURM job array or a Kubernetes Job.

Neither contains the URL of a storage that may hold a password. A SLURM job inherits the variable ``OPTUNA_STORAGE`` of
the shell that calls ``sbatch``; a Kubernetes Job reads it from a secret.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError
from dropopt.files import name_part
from dropopt.study.command.errors import BAD_INPUT
from dropopt.study.store.url import VARIABLE, file_of, redact, resolve

#: The secret of a Kubernetes cluster that holds the URL, and its key.
SECRET, SECRET_KEY = "dropopt-storage", "url"
#: The claims of the volumes that are mounted at the folders of the workers: this and the name of the option.
CLAIM = "dropopt-{}"
#: Seconds between the signal that ends a worker and SIGKILL, in which it records its trials and its checkpoints stay.
GRACE_SECONDS = 60
#: The longest name of a Kubernetes Job: the names of its pods are longer.
NAME_CHARACTERS = 50
#: How often a worker may fail before Kubernetes gives it up.
BACKOFF_LIMIT = 6

_MEMORY = re.compile(r"([1-9]\d*)([KMGT])B?", re.IGNORECASE)
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")


@dataclass(frozen=True)
class Job:
    """Workers of one study, and what each of them gets.

    Args:
        name: The study; None for the only one in the storage.
        storage: The storage as it was given; None for ``OPTUNA_STORAGE``.
        script: The study's script, if it defines the data or the network.
        options: Further arguments of ``dropopt worker``.
        checkpoints: The folder of the checkpoints, which all workers share; None to train without.
        artifacts: The folder of the files that the dashboard offers, which they share too; None for the default.
        workers: The number of workers.
        cpus: The cores of each.
        gpus: The GPUs of each.
        memory: The memory of each, such as ``8G``; None for the scheduler's default.
        time: The longest time that each may run, such as ``24:00:00`` or ``2-00:00:00``; None for no limit.
        image: The image of the container, for Kubernetes.
    """

    name: str | None
    storage: str | None
    script: str | None = None
    options: tuple[str, ...] = ()
    checkpoints: str | None = None
    artifacts: str | None = None
    workers: int = 1
    cpus: int = 1
    gpus: int = 0
    memory: str | None = None
    time: str | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ConfigError(f"memory must be a number with a unit, such as 500M or 8G, got {self.memory!r}")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise ConfigError(f"time must be HH:MM:SS or D-HH:MM:SS, such as 24:00:00, got {self.time!r}")
        if self.file is not None and "://" in resolve(self.storage):
            raise ConfigError(
                f"storage {self.storage} is a SQLite file, which has one writer; several workers need the URL of a "
                f"server; if it has a password, set {VARIABLE} to it and leave out --storage"
            )

    @property
    def file(self) -> Path | None:
        """The file of the storage, if it was given and is a file."""
        return None if self.storage is None else file_of(resolve(self.storage))

    @property
    def folders(self) -> dict[str, str]:
        """The folders that all workers share, by the name of their option."""
        given = {"checkpoints": self.checkpoints, "artifacts": self.artifacts}
        return {name: folder for name, folder in given.items() if folder}

    @property
    def volumes(self) -> dict[str, str]:
        """The names of the volumes by the folders at which they are mounted; a folder has one volume."""
        return {folder: name for name, folder in reversed(self.folders.items())}

    @property
    def title(self) -> str:
        """A name for the job, of letters that every scheduler accepts."""
        most = NAME_CHARACTERS - len("dropopt-")
        return f"dropopt-{name_part(self.name or 'study', r'[^a-z0-9-]+', most, lower=True)}"

    @property
    def shown_storage(self) -> str | None:
        """The storage, if it was given and cannot hold a password."""
        return self.storage if self.storage is not None and redact(self.storage) == self.storage else None

    def command(self) -> list[str]:
        """Return the command of a worker."""
        words = ["dropopt", "worker", *([self.script] if self.script else [])]
        words += ["--study", self.name] if self.name else []
        words += ["--storage", self.shown_storage] if self.shown_storage else []
        for name, folder in self.folders.items():
            words += [f"--{name}", folder]
        if "--n-jobs" not in self.options and not self.gpus:
            words += ["--n-jobs", str(self.cpus)]
        return [*words, *self.options]


def slurm(job: Job) -> str:
    """Return the script of a SLURM job array, for ``sbatch``."""
    options = {
        "job-name": job.title,
        "array": f"1-{job.workers}",
        "ntasks": "1",
        "cpus-per-task": str(job.cpus),
        **({"gres": f"gpu:{job.gpus}"} if job.gpus else {}),
        **({"mem": job.memory.upper().removesuffix("B")} if job.memory else {}),
        **({"time": job.time} if job.time else {}),
        "output": f"{job.title}-%A-%a.log",
        # The worker gets SIGTERM itself, in time to record its trials; a job that is preempted starts again.
        "signal": f"B:TERM@{GRACE_SECONDS}",
        "requeue": None,
        "open-mode": "append",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}" + (f"={value}" if value else "") for name, value in options.items())]
    lines += ["set -euo pipefail"]
    if job.shown_storage is None:
        lines += [f': "${{{VARIABLE}:?set it to the URL of the storage before you call sbatch}}"']
    return "\n".join([*lines, f"exec {shlex.join(job.command())}"]) + "\n"


def kubernetes(job: Job) -> str:
    """Return the manifest of an indexed Kubernetes Job, for ``kubectl apply``."""
    import yaml

    if job.image is None:
        raise ConfigError("give the image of a container with dropopt and your code in it: --image NAME:TAG")
    if job.file is not None:
        raise ConfigError(f"storage {job.storage} is a file, which the pods cannot reach; give the URL of a server")
    for name, folder in job.folders.items():
        if not Path(folder).is_absolute():
            raise ConfigError(f"--{name} must be an absolute path in the container, got {folder!r}")
    lines = (
        []
        if job.shown_storage
        else [
            "# The URL of the storage is read from a secret, which this command creates:",
            f'#   printf %s "${VARIABLE}" | kubectl create secret generic {SECRET} --from-file={SECRET_KEY}=/dev/stdin',
        ]
    )
    for name in job.volumes.values():
        lines += [f"# The {name} need a volume that all nodes can write: the claim {CLAIM.format(name)}."]
    return "".join(f"{line}\n" for line in lines) + yaml.safe_dump(_manifest(job), sort_keys=False)


def _manifest(job: Job) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [_container(job)],
    }
    if job.volumes:
        pod["volumes"] = [
            {"name": name, "persistentVolumeClaim": {"claimName": CLAIM.format(name)}} for name in job.volumes.values()
        ]
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": job.workers,
        "parallelism": job.workers,
        "backoffLimit": BACKOFF_LIMIT * job.workers,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                # A user's mistake would be the same at the next try.
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [BAD_INPUT]}},
            ]
        },
        **({"activeDeadlineSeconds": _seconds(job.time)} if job.time else {}),
        "template": {"metadata": {"labels": {"app": job.title}}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job.title}, "spec": spec}


def _container(job: Job) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpu": job.cpus}
    if job.memory:
        limits["memory"] = _quantity(job.memory)
    if job.gpus:
        limits["nvidia.com/gpu"] = job.gpus
    container: dict[str, Any] = {
        "name": "worker",
        "image": job.image,
        "command": job.command(),
        "resources": {"requests": dict(limits), "limits": limits},
    }
    if job.shown_storage is None:
        secret = {"secretKeyRef": {"name": SECRET, "key": SECRET_KEY}}
        container["env"] = [{"name": VARIABLE, "valueFrom": secret}]
    if job.volumes:
        container["volumeMounts"] = [{"name": name, "mountPath": folder} for folder, name in job.volumes.items()]
    return container


def _quantity(memory: str) -> str:
    """Return an amount of memory as Kubernetes writes it; like SLURM's, the units are powers of 1024."""
    found = _MEMORY.fullmatch(memory)
    return f"{found[1]}{found[2].upper()}i" if found else memory


def _seconds(time: str) -> int:
    found = _TIME.fullmatch(time)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
