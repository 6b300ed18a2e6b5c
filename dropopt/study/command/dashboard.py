"""``dropopt dashboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from dropopt.study.command.options import Storage


def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 chooses a free one.")] = 8080,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. The default accepts connections from this machine only. With another "
            "address, such as 0.0.0.0, other machines can open the dashboard, and there is no password."
        ),
    ] = "127.0.0.1",
    writable: Annotated[
        bool,
        typer.Option(
            "--writable",
            help="Allow the page to change studies: notes, trials, names, deletion. Without this option the dashboard "
            "is read-only.",
        ),
    ] = False,
    storage: Storage = None,
) -> None:
    """Show the studies in optuna-dashboard, read-only and on this machine only unless options say otherwise."""
    from dropopt.study.show.dashboard import serve
    from dropopt.study.store.url import resolve

    serve(resolve(storage), port, host=host, writable=writable)
