"""``dropopt resume-trial``: one pruned trial, continued to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dropopt.study.command import options
from dropopt.study.store.lease import GRACE
from dropopt.study.store.patient import PATIENCE


def resume_trial(
    number: options.ResumedTrial,
    script: options.WorkerScript = None,
    study: options.StudyName = None,
    storage: options.Storage = None,
    data: options.MovedData = None,
    checkpoints: options.Checkpoints = None,
    trial_timeout: options.ResumedTimeout = None,
    trial_memory: options.ResumedMemory = None,
    storage_patience: options.StoragePatience = PATIENCE,
    grace: options.Grace = GRACE,
    quiet: options.Quiet = False,
) -> int:
    """Continue a pruned trial, or one that a limit has ended, to its last epoch.

    It continues from its checkpoint if --keep-checkpoints has kept it; otherwise it is trained from the beginning with
    the same seed. The result is a new trial, which does not count towards --n-trials.
    """
    from dropopt.study.define.script import load
    from dropopt.study.session.continuing import run
    from dropopt.study.session.joining import stored_request
    from dropopt.study.show.console import make_console, say
    from dropopt.study.store.patient import Patience

    path = load(script)[1] if script is not None else Path()
    words = ["dropopt", "resume-trial", str(number), *([script] if script else [])]
    words += options.typed(
        data=(data, None),
        checkpoints=(checkpoints, None),
        trial_timeout=(trial_timeout, None),
        trial_memory=(trial_memory, None),
        storage_patience=(storage_patience, PATIENCE),
        grace=(grace, GRACE),
    )
    console = make_console(quiet=quiet)
    patience = Patience(storage_patience, lambda line: say(console, line, "yellow"))
    request = stored_request(study, storage, 1, None, checkpoints, path, words, patience, data=data)
    limits = {"trial_timeout": trial_timeout, "trial_memory": trial_memory}
    definition = type(request.definition).parse({**dict(request.definition), **limits})
    request = replace(request, definition=definition, storage_patience=storage_patience, grace=grace, quiet=quiet)
    return run(request, number)
