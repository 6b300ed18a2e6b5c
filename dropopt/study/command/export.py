"""``dropopt export``."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path

from dropopt.study.command.options import ExportOutput, Force, Format, Storage, StudyName, Trial


def export(
    study: StudyName = None,
    trial: Trial = None,
    format: Format = None,
    output: ExportOutput = None,
    storage: Storage = None,
    force: Force = False,
) -> None:
    """Write the configuration of a trial to a file.

    The file contains all settings and their provenance.
    """
    from dropopt.export import save
    from dropopt.study.after.export import check_same_study, exported
    from dropopt.study.show.console import busy
    from dropopt.study.show.formatting import format_accuracy
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import choose, find_study, value_name
    from dropopt.study.store.url import resolve

    with closing(Opened(resolve(storage), create=False)) as opened:
        found = find_study(opened.storage, study)
        chosen = choose(found, trial)
        with busy("analysing the trials"):
            run, provenance = exported(found, chosen)
    path = output or Path(f"best.{format or 'yaml'}")
    if not force:
        check_same_study(path, format, found.study_name)
    save(path, run, provenance, format=format)
    scores = (
        ""
        if chosen.value is None
        else f", {value_name(found)} {chosen.value:.4f}, accuracy {format_accuracy(chosen)} (validation)"
    )
    print(f"{path}: study {found.study_name}, trial {chosen.number}{scores}")
    print(f"train with it: dropopt train {shlex.quote(str(path))}")
