"""The server of optuna-dashboard, which only this machine can reach."""

from __future__ import annotations

from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dropopt.config import ConfigError
from dropopt.study.show.console import busy
from dropopt.study.show.page import refresh
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.queries import find_study, study_names
from dropopt.study.store.url import redact

#: The address to listen on. The dashboard has no passwords, so other machines must not reach it.
HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in its own thread, so that a slow plot does not delay other requests."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Logs errors only, not every request."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log nothing."""


def serve(url: str, port: int) -> None:
    """Update the pages of all studies in the storage at ``url``, then serve them on ``port`` until Ctrl-C."""
    storage = open_storage(url, create=False)
    try:
        from optuna_dashboard import wsgi

        with busy("reading what was learned"):
            for name in study_names(storage):
                refresh(find_study(storage, name))
        app = wsgi(storage)
        try:
            server = make_server(HOST, port, app, server_class=_Server, handler_class=_Handler)
        except OSError as error:
            raise ConfigError(f"port {port} cannot be used ({error.strerror}); give another --port") from None
        with server:
            print(f"{redact(url)} is shown at http://{HOST}:{server.server_port}/ (Ctrl-C stops it)", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        close(storage)
