"""A study that uses the fake training; also a program: ``python fake_study.py '{"n_trials": 3}' N_JOBS``.

The options ``grace``, ``storage_patience`` and ``reclaim`` are those of the command line, ``on_ray`` is the number of
CPUs of each trial on a Ray cluster, and ``pages`` stores the page of the study and the files of its best trials, which
other studies here lack; all others are fields of the study.
"""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import optuna

from dropopt.study import Study
from dropopt.study.command.errors import guard
from dropopt.study.run.cluster import Cluster
from dropopt.study.run.slots import Targets
from dropopt.study.session import continuing, session
from dropopt.study.session.joining import stored_request
from dropopt.study.session.request import Request
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store import opening, patient
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.url import resolve

FAKE = Targets("fake_training:load", "fake_training:train")


def make(**options):
    """Define a study of a few short trials, without anchors and portfolio; ``options`` override its fields."""
    fields = {"name": "fake", "train": {"epochs": 8}, "n_trials": 6, "sampler": "tpe", "anchors": False}
    fields["portfolio"] = "none"
    return Study(**(fields | options))


@contextlib.contextmanager
def quickened(pages=False):
    """Studies inside the block take less time.

    They have no page, or one without effects, whose estimation takes seconds at the end of each study;
    ``tests/study/show`` tests both. An outage of the storage is reported sooner, and a transaction of a worker that was
    stopped is ended sooner.
    """
    with (
        contextlib.nullcontext() if pages else mock.patch.object(session.Session, "_refresh"),
        mock.patch.object(Snapshot, "effects", None),
        mock.patch.object(Snapshot, "learned", None),
        mock.patch.object(patient, "SAID_AFTER", 0.5),
        mock.patch.object(opening, "IDLE_TIMEOUT", 5),
    ):
        yield


def run(storage, n_jobs=2, targets=FAKE, pages=False, **options):
    """Run the study in this process and return the exit code."""
    others = {name: options.pop(name) for name in ("grace", "storage_patience", "reclaim") if name in options}
    if "on_ray" in options:
        others["cluster"] = Cluster(cpus=options.pop("on_ray"))
    request = Request(make(**options), Path(__file__), storage, n_jobs, "dropopt run fake", targets, **others)
    with quickened(pages):
        return session.run(request)


def resume(storage, number, targets=FAKE, **others):
    """Resume a trial of a study in this process; returns the exit code."""
    line = ["dropopt", "resume-trial", str(number)]
    request = stored_request(None, str(storage), 1, None, None, Path(), line, **others)
    with quickened():
        return continuing.run(replace(request, targets=targets), number)


def trials(storage, name="fake"):
    """Read the trials of a study with Optuna alone."""
    opened = open_storage(resolve(storage), create=False)
    try:
        return optuna.load_study(study_name=name, storage=opened).get_trials()
    finally:
        close(opened)


if __name__ == "__main__":
    options, jobs = sys.argv[1:]
    guard(lambda: run(None, int(jobs), **json.loads(options)))
