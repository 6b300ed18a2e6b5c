"""Optuna's gRPC storage proxy: one server uses the database, and any number of workers use the server.

The URL is ``grpc://HOST:PORT``. The package grpcio is optional and is imported inside functions.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dropopt.config import ConfigError
from dropopt.study.store.url import redact

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SCHEME = "grpc"
#: The default port, which is Optuna's.
PORT = 13000

#: Options of the connection: replies of any size; tries to connect at least every 2 seconds, where gRPC would wait for
#: up to 2 minutes; and a server that has vanished is noticed within half a minute.
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def open_proxy(url: str, timeout: float) -> BaseStorage:
    """Connect to a proxy.

    Args:
        url: ``grpc://HOST:PORT``.
        timeout: Seconds to wait for its answer.

    Raises:
        ConfigError: The URL is not valid, grpcio is missing, or no proxy answers; then its cause is an ``OSError``.
    """
    host, port = _address(url)
    try:
        import grpc
        from optuna.storages import GrpcStorageProxy
    except ImportError as error:
        raise ConfigError(f"storage {redact(url)} needs grpcio; type: pip install 'dropopt[grpc]'") from error

    class Proxy(GrpcStorageProxy):
        """Optuna's client, with a connection that is restored soon after an outage."""

        def _setup(self) -> None:
            super()._setup()
            self._channel.close()
            self._channel = grpc.insecure_channel(f"{host}:{port}", options=_OPTIONS)
            self._stub = type(self._stub)(self._channel)
            self._cache = type(self._cache)(self._stub)

    with warnings.catch_warnings(action="ignore"):  # Optuna calls the class experimental
        storage = Proxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout)
    except ConnectionError:
        storage.close()
        raise ConfigError(
            f"storage {redact(url)} does not answer; start it with: dropopt storage-proxy"
        ) from ConnectionError(f"no storage proxy answers at {host}:{port}")
    except BaseException:
        storage.close()
        raise
    return storage


def is_remote_error(error: BaseException | None) -> bool:
    """Whether gRPC has raised ``error``."""
    grpc = sys.modules.get("grpc")
    return grpc is not None and isinstance(error, grpc.RpcError)


def is_remote_outage(error: BaseException | None) -> bool:
    """Whether an error of gRPC may go away by itself: the proxy, or the database behind it, does not answer.

    The code UNKNOWN stands for any error of the proxy's own storage.
    """
    code = getattr(error, "code", None)
    name = getattr(code(), "name", "") if callable(code) else ""
    return name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN")


def _address(url: str) -> tuple[str, int]:
    """Return the host and the port of a proxy; raises :class:`ConfigError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigError(f"storage {redact(url)} is not the URL of a storage proxy; give grpc://HOST:PORT")
    return f"[{host}]" if ":" in host else host, port
