"""``dropopt dashboard``."""

from __future__ import annotations

from dropopt.study.command import options


def dashboard(
    port: options.Port = 8080,
    host: options.Host = "127.0.0.1",
    writable: options.Writable = False,
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
) -> None:
    """Show the studies in optuna-dashboard; by default read-only and on this machine only."""
    from dropopt.study.show.dashboard import serve
    from dropopt.study.store.url import resolve, storage_hint

    serve(resolve(storage), port, host=host, writable=writable, hint=storage_hint(storage), artifacts=artifacts)
