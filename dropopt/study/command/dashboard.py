"""``dropopt dashboard``."""

from __future__ import annotations

from dropopt.study.command.options import Artifacts, Host, Port, Storage, Writable


def dashboard(
    port: Port = 8080,
    host: Host = "127.0.0.1",
    writable: Writable = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
) -> None:
    """Show the studies in optuna-dashboard; by default read-only and on this machine only."""
    from dropopt.study.show.dashboard import serve
    from dropopt.study.store.url import resolve, storage_hint

    serve(resolve(storage), port, host=host, writable=writable, hint=storage_hint(storage), artifacts=artifacts)
