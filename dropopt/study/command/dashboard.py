"""``dropopt dashboard``."""

from __future__ import annotations

from dropopt.study.command.options import Port, Storage


def dashboard(port: Port = 8080, storage: Storage = None) -> None:
    """Show the studies in optuna-dashboard.

    Only this machine can reach the server.
    """
    from dropopt.study.show.dashboard import serve
    from dropopt.study.store.url import resolve

    serve(resolve(storage), port)
