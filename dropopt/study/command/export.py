"""``dropopt export``."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from dropopt.study.command.options import Storage, StudyName


def export(
    study: StudyName = None,
    trial: Annotated[int | None, typer.Option(help="Default: the best trial.", show_default=False)] = None,
    format: Annotated[
        str | None,
        typer.Option(help="yaml, json or toml. Default: by the file's name.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: best.FORMAT.", show_default=False)
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a trial's configuration to a file.

    All of its settings, and where they come from.
    """
    from dropopt.export import save
    from dropopt.study.after.export import exported
    from dropopt.study.show.console import busy
    from dropopt.study.show.words import show_accuracy
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import choose, find_study
    from dropopt.study.store.url import resolve

    with closing(Opened(resolve(storage), create=False)) as opened:
        found = find_study(opened.storage, study)
        chosen = choose(found, trial)
        with busy("reading what was learned"):
            run, provenance = exported(found, chosen)
    path = output or Path(f"best.{format or 'yaml'}")
    save(path, run, provenance, format=format)
    value = "" if chosen.value is None else f", loss {chosen.value:.4f}, accuracy {show_accuracy(chosen)} (validation)"
    print(f"{path}: study {found.study_name}, trial {chosen.number}{value}")
    print(f"train with it: dropopt train {shlex.quote(str(path))}")
