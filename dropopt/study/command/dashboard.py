"""``dropopt dashboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from dropopt.study.command.options import Storage


def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    storage: Storage = None,
) -> None:
    """Open the studies in optuna-dashboard, on this machine only."""
    from dropopt.study.show.dashboard import serve
    from dropopt.study.store.url import resolve

    serve(resolve(storage), port)
