"""``dropopt storage-proxy``."""

from __future__ import annotations

import sys

from dropopt.study.command import options
from dropopt.study.store.patient import PATIENCE


def storage_proxy(
    storage: options.Storage = None,
    host: options.ProxyHost = "127.0.0.1",
    port: options.ProxyPort = 13000,
    storage_patience: options.StoragePatience = PATIENCE,
) -> None:
    """Serve a storage to many workers with Optuna's gRPC proxy.

    The workers use it with --storage grpc://HOST:PORT. The server keeps nothing, so it may be restarted at any time.
    """
    from dropopt.study.show.guard import is_loopback
    from dropopt.study.store.patient import Patience
    from dropopt.study.store.proxy_server import serve
    from dropopt.study.store.url import redact, resolve

    url = resolve(storage)
    if not is_loopback(host):
        print(
            f"warning: the proxy has no password; everyone who can reach {host} port {port} can change the studies",
            file=sys.stderr,
            flush=True,
        )
    patience = Patience(storage_patience, lambda line: print(line, flush=True))
    line = f"serving {redact(url)} at grpc://{host}:{port} (Ctrl-C ends it)"
    serve(url, host, port, patience, opened=lambda: print(line, flush=True))
