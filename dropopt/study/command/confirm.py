"""``dropopt confirm``."""

from __future__ import annotations

import shlex

from dropopt.study.command import options
from dropopt.study.command.errors import FAILED
from dropopt.study.store.lease import GRACE
from dropopt.study.store.patient import PATIENCE


def confirm(
    study: options.StudyName = None,
    storage: options.Storage = None,
    top: options.Top = 5,
    seeds: options.Seeds = 5,
    optimise: options.ConfirmOptimise = None,
    n_jobs: options.NJobs = -1,
    anchors: options.ConfirmAnchors = True,
    again: options.Again = False,
    data: options.MovedData = None,
    checkpoints: options.ConfirmCheckpoints = None,
    code: options.Code = None,
    trust: options.Trust = False,
    storage_patience: options.StoragePatience = PATIENCE,
    grace: options.Grace = GRACE,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Train the best configurations of a study again, on fresh seeds, and read the test set once.

    Chooses by posterior mean, adds the anchors, and stops configurations that are clearly worse. Each seed also draws a
    new validation split, unless the data have one of their own. The test set is read for the winner only, and only
    once. The same command goes on after an interruption.
    """
    from dropopt.study.command.output import json_text
    from dropopt.study.command.settling import settler
    from dropopt.study.session.confirming import STOPPED_LINE, ConfirmRequest
    from dropopt.study.session.confirming import confirm as run
    from dropopt.study.show.confirmation import show_confirmation
    from dropopt.study.show.console import complain, make_console, say, say_command
    from dropopt.study.show.next_lines import best_file
    from dropopt.study.store.url import storage_hint

    request = ConfirmRequest(
        study=study,
        storage=storage,
        top=top,
        seeds=seeds,
        optimise=optimise,
        n_jobs=n_jobs,
        anchors=anchors,
        again=again,
        data=data,
        checkpoints=checkpoints,
        settle=settler(code or (), trust=trust, quiet=quiet),
        storage_patience=storage_patience,
        grace=grace,
    )
    console = make_console(quiet=quiet, stderr=as_json)
    exit_code, found = run(request, console)
    if as_json and found is not None:
        print(json_text(found.plain()))
    elif found is not None:
        show_confirmation(console, found)
        if found.winner is not None and exit_code <= FAILED:
            name, file = shlex.quote(found.study), shlex.quote(best_file(f"{found.study}-confirmed"))
            trial = f"--trial {found.winner.trial}{storage_hint(storage)}"
            say(console, "next:")
            say_command(console, "export", f"dropopt export --study {name} {trial} -o {file}")
            say_command(console, "train", f"dropopt train {file}")
    if exit_code == FAILED:
        complain(console, "no configuration could be trained on all seeds; without --quiet, the reasons are printed")
    if exit_code > FAILED:  # the last line says what to do
        say(console, STOPPED_LINE)
    return exit_code
