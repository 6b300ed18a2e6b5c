"""The server of the storage proxy: ``dropopt storage-proxy``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import optuna

from dropopt.config import ConfigError
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import Patience
from dropopt.study.store.proxy import SCHEME
from dropopt.study.store.url import file_of, redact

#: Calls that the server answers at the same time, if its storage is a database server.
THREADS = 10


def serve(url: str, host: str, port: int, patience: Patience, opened: Callable[[], None]) -> None:
    """Serve the storage at ``url`` until the process ends.

    The clients wait for a database that is unreachable, so the server itself waits only when it starts.

    Args:
        url: The URL of a database. A SQLite file is locked, as ``dropopt run`` locks it, and gets one call at a time.
        host: The address to listen on.
        port: The port to listen on.
        patience: How long to wait for the database at the start.
        opened: Called when the storage is open.

    Raises:
        ConfigError: The storage cannot be served, grpcio is missing, or the address cannot be used.
        StorageError: The database stays unreachable.
    """
    if "://" not in url or url.startswith((SCHEME, "redis")):
        raise ConfigError(
            f"storage {redact(url)} cannot be served by Optuna's proxy; give a SQLite file or the URL of a database"
        )
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise ConfigError("dropopt storage-proxy needs grpcio; type: pip install 'dropopt[grpc]'") from error

    optuna.logging.set_verbosity(logging.ERROR)
    threads = THREADS if file_of(url) is None else 1
    with closing(Opened(url, patience=patience)) as storage, ThreadPoolExecutor(threads) as pool:
        opened()
        try:
            with warnings.catch_warnings(action="ignore"):  # Optuna calls the server experimental
                optuna.storages.run_grpc_proxy_server(storage.direct, host=host, port=port, thread_pool=pool)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise ConfigError(f"{host} port {port} cannot be used ({reason}); give another --port or --host") from None
