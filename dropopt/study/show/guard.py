"""WSGI middleware that protects the dashboard, which has no password.

A web page on another site can send requests to this machine through the user's browser. Each rule below blocks one kind
of such requests, and the security headers restrict what a browser does with the replies.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dropopt.study.show.plotsize import PLOT_LIMIT, plot_size

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

#: Methods that do not change the studies. No GET route of optuna-dashboard 0.21 writes to the storage, and its page
#: needs no other method to show a study.
READING = ("GET", "HEAD", "OPTIONS")
#: Bytes of a refused request's body that are read, so that the client receives the reply before the connection closes.
DRAINED = 1_000_000

#: Plots that Optuna can restrict to some parameters.
PARAMS_PLOTS = ("contour", "rank", "slice", "parallel_coordinate")

#: Headers of every reply. The content security policy adds to the page's own: browsers enforce both.
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Content-Security-Policy", "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
)
#: Headers of an artifact: a file that anyone who can write to the storage may have put there.
ARTIFACT_HEADERS = (
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
)
#: Headers of optuna-dashboard that are removed: they let other sites read artifacts, or show artifacts inline.
REMOVED = ("access-control-allow-origin", "content-disposition")


@dataclass(frozen=True)
class Request:
    """The parts of a WSGI request that the rules read."""

    method: str
    path: str
    host: str
    origin: str | None
    fetch_site: str | None
    address: str

    @classmethod
    def of(cls, environ: WSGIEnvironment) -> Request:
        """Read the request; the path is decoded as optuna-dashboard decodes it."""
        return cls(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
            host=environ.get("HTTP_HOST", "").lower(),
            origin=environ.get("HTTP_ORIGIN"),
            fetch_site=environ.get("HTTP_SEC_FETCH_SITE"),
            address=environ.get("SERVER_ADDR", ""),
        )

    @property
    def writes(self) -> bool:
        """Whether the request may change a study."""
        return self.method not in READING


@dataclass(frozen=True)
class Refusal:
    """The HTTP status and the one line that explains it."""

    status: str
    reason: str


#: Decides whether a request is refused; returns None if it is allowed.
Rule = Callable[[Request], Refusal | None]


def known_host(names: Collection[str], port: int, request: Request) -> Refusal | None:
    """Refuse a Host header that does not name this server, which prevents DNS rebinding.

    Args:
        names: The names and addresses that clients may use besides the address that they are connected to, in lower
            case.
        port: The served port.
        request: The request.
    """
    name, colon, given_port = request.host.rpartition(":")
    if not colon or request.host.endswith("]"):  # a browser leaves out port 80
        name, given_port = request.host, "80"
    if (name in names or (name and name == _bracketed(request.address))) and given_port == str(port):
        return None
    given = f"the Host {request.host[:100]!r}" if request.host else "a request without a Host"
    return Refusal("403 Forbidden", f"{given} is not allowed; open http://localhost:{port}/")


def plain_path(request: Request) -> Refusal | None:
    """Refuse a path that leaves its folder, even if it is percent-encoded more than once."""
    path, decoded = "", request.path
    while path != decoded:
        path, decoded = decoded, unquote(decoded)
        parts = path.split("/")
        if (path and parts[0]) or ".." in parts or "." in parts or re.search(r"[\\\x00-\x1f\x7f]", path):
            return Refusal("400 Bad Request", "the path of the request is not allowed; open /dashboard")
    return None


def read_only(request: Request) -> Refusal | None:
    """Refuse every request that may change a study."""
    if not request.writes:
        return None
    line = "the dashboard is read-only; to allow changes, restart it with: dropopt dashboard --writable"
    return Refusal("403 Forbidden", line)


def same_origin(request: Request) -> Refusal | None:
    """Refuse a change that a page of another origin requests; clients that are not browsers send no origin.

    The Origin is compared with the Host, which :func:`known_host` has checked.
    """
    foreign = request.origin is not None and request.origin.lower() != f"http://{request.host}"
    if request.writes and (foreign or request.fetch_site not in (None, "same-origin", "none")):
        return Refusal("403 Forbidden", "a page of another origin may not change a study; use the dashboard's page")
    return None


def small_plot(storage: BaseStorage, request: Request) -> Refusal | None:
    """Refuse a plot whose estimated size exceeds the limit, before it is computed, and a plot of a deleted study."""
    found = re.fullmatch(r"/api/studies/(\d+)/plot/([^/]+)/*", request.path)
    if found is None:
        return None
    try:
        storage.get_study_user_attrs(int(found[1]))  # trials of a deleted study may still be cached
        size = plot_size(storage, int(found[1]), found[2])
    except KeyError:
        return Refusal("404 Not Found", "there is no such study; it may have been deleted")
    if size <= PLOT_LIMIT:
        return None
    line = f"the {found[2]} plot would be about {size / 1e6:,.0f} MB; the limit is {PLOT_LIMIT / 1e6:,.0f} MB"
    if found[2] in PARAMS_PLOTS:
        line += f"; plot fewer parameters with optuna.visualization.plot_{found[2]}(study, params=[...])"
    return Refusal("413 Content Too Large", line)


class Guard:
    """Applies the rules to each request, and the security headers to each reply.

    Args:
        app: The application to protect.
        rules: The first rule that refuses a request decides.
    """

    def __init__(self, app: WSGIApplication, rules: Sequence[Rule]) -> None:
        self.app = app
        self.rules = rules

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        for name in ("HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO"):  # redirects would trust them
            environ.pop(name, None)
        request = Request.of(environ)
        for rule in self.rules:
            if refusal := rule(request):
                _drain(environ)
                return _answer(request, refusal, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, _secured(request, headers), exc_info)

        return self.app(environ, start)


def guard(app: WSGIApplication, storage: BaseStorage, host: str, port: int, *, writable: bool) -> Guard:
    """Protect optuna-dashboard's application on ``storage``, served at ``host`` and ``port``."""
    changes = same_origin if writable else read_only
    return Guard(app, (partial(known_host, host_names(host), port), plain_path, changes, partial(small_plot, storage)))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(host: str) -> set[str]:
    """The names by which clients may address a server that listens at ``host``."""
    names = {"localhost", "127.0.0.1", "[::1]", _bracketed(host.lower())}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names


def _bracketed(address: str) -> str:
    """An address as a URL writes it."""
    return f"[{address}]" if ":" in address else address


def _secured(request: Request, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The reply's headers with the security headers added."""
    if not request.path.startswith("/artifacts/"):
        return [*headers, *HEADERS]
    kept = [(name, value) for name, value in headers if name.lower() not in REMOVED]
    return [*kept, *HEADERS, *ARTIFACT_HEADERS]


def _answer(request: Request, refusal: Refusal, start_response: StartResponse) -> list[bytes]:
    """A refusal in the format of optuna-dashboard's API, whose page shows the reason; elsewhere as plain text."""
    if request.path.startswith("/api/"):
        kind, body = "application/json", json.dumps({"reason": refusal.reason})
    else:
        kind, body = "text/plain; charset=utf-8", refusal.reason + "\n"
    data = body.encode()
    start_response(refusal.status, [("Content-Type", kind), ("Content-Length", str(len(data))), *HEADERS])
    return [] if request.method == "HEAD" else [data]


def _drain(environ: WSGIEnvironment) -> None:
    """Read the body of a refused request: a connection that is closed with unread data loses the reply."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if length.isdecimal():
        environ["wsgi.input"].read(min(int(length), DRAINED))
