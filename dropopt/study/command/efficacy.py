"""``dropopt efficacy``."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from dropopt.study.command.options import Storage, StudyName


def efficacy(
    study: StudyName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write what was learned here, for --prior of a new study.", show_default=False
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Tell which method works, and how sure that is.

    Each method's effect and each pair's synergy with 90% intervals, and the blend now preferred.
    """
    from dropopt.study.search.prior import prior_of
    from dropopt.study.show.console import busy, make_console
    from dropopt.study.show.efficacy import efficacy_report
    from dropopt.study.store.keys import PRIOR
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import find_study
    from dropopt.study.store.url import resolve

    with closing(Opened(resolve(storage), create=False)) as opened:
        found = find_study(opened.storage, study)
        with busy("reading what was learned"):
            report = efficacy_report(found, prior=found.user_attrs.get(PRIOR))
        make_console().print(report)
        if output is not None:
            prior_of(found).save(output)
            print(f"{output}: start another study from it with --prior {shlex.quote(str(output))}")
