"""Serves optuna-dashboard on a storage."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from dropopt.config import ConfigError
from dropopt.study.show.artifacts import artifact_folder
from dropopt.study.show.guard import guard, is_loopback
from dropopt.study.show.overlay import Overlay
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.url import redact

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

#: The default address: the dashboard has no password, so only this machine can reach it.
HOST = "127.0.0.1"


class _Handler(WSGIRequestHandler):
    """Adds the server's address to each request; does not log requests."""

    #: Seconds after which a client that sends or reads nothing is disconnected.
    timeout = 60

    def get_environ(self) -> dict[str, Any]:
        """Add SERVER_ADDR, the address that the client connected to."""
        address = self.connection.getsockname()[0].removeprefix("::ffff:")
        return {**super().get_environ(), "SERVER_ADDR": address}

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Do not log."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves the guarded dashboard with one thread per request, so that a slow plot delays no other request."""

    daemon_threads = True

    def __init__(
        self,
        storage: BaseStorage,
        host: str,
        port: int,
        *,
        writable: bool = False,
        folder: Path | None = None,
        hint: str = "",
    ) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)
        app = Overlay(_dashboard(storage, folder), storage, hint)
        self.set_app(guard(app, storage, host, self.server_port, writable=writable))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback, except for a client that disconnected."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _dashboard(storage: BaseStorage, folder: Path | None) -> WSGIApplication:
    """Return optuna-dashboard with the artifacts in ``folder``, which a study may create later."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    without: WSGIApplication = wsgi(storage)
    if folder is None:
        return without
    with_artifacts: WSGIApplication = wsgi(storage, FileSystemArtifactStore(folder))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return (with_artifacts if folder.is_dir() else without)(environ, start_response)

    return app


def serve(
    url: str, port: int, *, host: str = HOST, writable: bool = False, hint: str = "", artifacts: Path | None = None
) -> None:
    """Serve the storage at ``url`` until SIGINT (Ctrl-C) or SIGTERM.

    Args:
        url: The storage's URL.
        port: The port to listen on; 0 chooses a free one.
        host: The address to listen on.
        writable: Whether the page may change studies.
        hint: The option ``--storage`` as it is typed, with a space before it, for the commands on the page; or empty.
        artifacts: The folder of artifacts; None for the default.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    storage = open_storage(url, create=False)
    try:
        try:
            server = Server(storage, host, port, writable=writable, folder=artifact_folder(url, artifacts), hint=hint)
        except OSError as error:
            reason = f"{host} port {port} cannot be used ({error.strerror})"
            raise ConfigError(f"{reason}; give another --port or --host") from None
        with server:
            _announce(url, host, server.server_port, writable)
            server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        close(storage)


def _interrupt(*_: object) -> None:
    """End the server; a second signal kills the process at once, whatever it is waiting for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _announce(url: str, host: str, port: int, writable: bool) -> None:
    """Print the page's address, and a warning if other machines can reach it."""
    if not is_loopback(host):
        can = "read and change" if writable else "read"
        print(
            f"warning: the dashboard has no password; everyone who can reach {host} port {port} can {can} the studies",
            file=sys.stderr,
            flush=True,
        )
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    mode = "writable" if writable else "read-only"
    print(f"{redact(url)} is shown at http://{shown}:{port}/ ({mode}; Ctrl-C ends it)", flush=True)
