"""The dashboard is safe by default: each rule is tested with real requests to a real server."""

import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from serving import serving

from dropopt.config import ConfigError
from dropopt.study.show import dashboard, guard
from dropopt.study.show.guard import DRAINED, HEADERS, Guard, Refusal, Request, host_names, known_host, plain_path
from dropopt.study.show.plotsize import CELL, PLOT_LIMIT, POINT, VALUE, plot_size

PROGRAM = [sys.executable, "-c", "from dropopt.cli import main; main()"]


@pytest.fixture
def study():
    """A study in memory: two complete trials and one that is running."""
    study = optuna.create_study(study_name="shown", direction="minimize", storage=optuna.storages.InMemoryStorage())
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=2)
    study.ask()
    return study


def test_the_page_and_its_api_answer_with_security_headers(study):
    """The requests that the page sends to show a study succeed, and every reply has the security headers."""
    paths = ["dashboard", "dashboard/studies/0/graph", "api/meta", "api/studies", "api/studies/0?after=0", "csv/0"]
    paths += ["static/bundle.js", "api/studies/0/param_importances"]
    paths += [f"api/studies/0/plot/{name}" for name in ("contour", "rank", "slice", "timeline")]
    with serving(study._storage) as request:
        for path in paths:
            status, text, headers = request("GET", f"/{path}", Accept_Encoding="identity")
            assert status == 200, text
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "same-origin"
            assert "frame-ancestors 'none'" in str(headers.get_all("Content-Security-Policy"))
            assert "Access-Control-Allow-Origin" not in headers
        status, _, headers = request("GET", "/", X_Forwarded_Host="evil.example")
        assert (status, "evil" in headers["Location"]) == (302, False)


WRITES = [
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/0/rename", {"study_name": "other"}),
    ("DELETE", "/api/studies/0", {}),
    ("PUT", "/api/studies/0/note", {"version": 1, "body": "text"}),
    ("POST", "/api/trials/2/tell", {"state": "complete", "values": [-1e9]}),
    ("POST", "/api/trials/2/user-attrs", {"user_attrs": {"a": 1}}),
    ("PUT", "/api/studies/0/2/note", {"version": 1, "body": "text"}),
    ("POST", "/api/artifacts/0", {"file": "data:text/html;base64,PGI+"}),
    ("POST", "/incompatible-rdb-schema", None),
    ("PATCH", "/api/studies/0", {}),
    ("ANYTHING", "/dashboard", None),
]


def test_a_read_only_dashboard_changes_nothing(study):
    """Every method that may write is refused with the command that allows it."""
    attributes = study._storage.get_study_system_attrs
    before = study.trials, attributes(0), study.user_attrs
    with serving(study._storage) as request:
        for method, path, body in WRITES:
            status, text, _ = request(method, path, body, Origin="http://127.0.0.1:{port}")
            assert (status, text.count("dropopt dashboard --writable")) == (403, 1), (method, path)
            assert (study.trials, attributes(0), study.user_attrs) == before, (method, path)
            assert optuna.get_all_study_names(study._storage) == ["shown"]


FORGED = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:{port}.evil.example"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
]


@pytest.mark.parametrize("writable", [False, True])
def test_a_forged_tell_does_not_change_a_running_trial(study, writable):
    """A page of another site cannot tell a running trial its value."""
    with serving(study._storage, writable=writable) as request:
        for forged in FORGED:
            status, text, _ = request("POST", "/api/trials/2/tell", {"state": "complete", "values": [-1e9]}, **forged)
            assert (status, set(json.loads(text))) == (403, {"reason"}), forged
            assert study.trials[2].state == optuna.trial.TrialState.RUNNING, forged


@pytest.mark.parametrize("own", [{}, {"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}])
def test_a_writable_dashboard_accepts_its_own_page_and_local_programs(study, own):
    """With ``--writable`` the page's request reaches the storage, as does one without an origin."""
    with serving(study._storage, writable=True) as request:
        assert request("POST", "/api/trials/2/tell", {"state": "complete", "values": [3.0]}, **own)[0] == 204
    assert study.trials[2].value == 3


@pytest.mark.parametrize("writable", [False, True])
def test_only_hosts_that_name_this_server_are_served(study, writable):
    """Any other Host, also with another port or none, is refused: it may be a name rebound to this machine."""
    with serving(study._storage, writable=writable) as request:
        for host in ("localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}"):
            assert request("GET", "/api/studies", host=host)[0] == 200, host
        wrong = ["evil.example:{port}", "evil.example", "localhost", "localhost:1", "", "127.0.0.1:{port},evil.example"]
        for host in [*wrong, "127.0.0.1.evil.example:{port}", f"{socket.gethostname()}.x:{{port}}", "10.1.2.3:{port}"]:
            status, text, _ = request("GET", "/api/studies", host=host)
            assert (status, "http://localhost:" in text) == (403, True), host


def test_a_public_address_also_serves_the_name_of_the_machine(study):
    """With ``--host 0.0.0.0`` the machine's name and the connected address are allowed, and no other name."""
    with serving(study._storage, host="0.0.0.0") as request:
        assert request("GET", "/api/studies", host=f"{socket.gethostname()}:{{port}}")[0] == 200
        assert request("GET", "/api/studies", host="evil.example:{port}")[0] == 403
    for host, address, refused in (
        ("studies.example", "", False),
        ("studies.example:80", "", False),
        ("192.0.2.7", "192.0.2.7", False),
        ("[2001:db8::1]", "2001:db8::1", False),
        ("192.0.2.8", "192.0.2.7", True),
        ("", "", True),
    ):
        request = Request("GET", "/", host, None, None, address)
        assert (known_host(host_names("studies.example"), 80, request) is not None) == refused, host


def test_path_traversal_is_refused(study):
    """Plain or encoded, once or more often."""
    paths = ["../index.html", "%2e%2e/index.html", "..%2f..%2findex.html", "%252e%252e%252findex.html"]
    paths += ["%25252e%25252e/index.html", "..%5c..%5cindex.html", "a%00.js"]
    with serving(study._storage) as request:
        for path in [*(f"/static/{path}" for path in paths), "/dashboard/./x", "http://evil.example/api/studies"]:
            assert request("GET", path)[0] == 400, path
    assert plain_path(Request("GET", "/static/bundle.js", "", None, None, "")) is None


def test_artifacts_of_a_study_that_begins_later_are_served(study, tmp_path):
    """A dashboard that was opened before the first study has stored a file offers the files of then."""
    folder = tmp_path / "study.db.artifacts"
    with serving(study._storage, folder=folder) as request:
        assert not json.loads(request("GET", "/api/meta")[1])["artifact_is_available"]
        folder.mkdir()
        (tmp_path / "best.yaml").write_text("engine: {}\n")
        store, file = FileSystemArtifactStore(folder), str(tmp_path / "best.yaml")
        stored = upload_artifact(artifact_store=store, file_path=file, study_or_trial=study)
        assert json.loads(request("GET", "/api/meta")[1])["artifact_is_available"]
        assert request("GET", f"/artifacts/{study._study_id}/{stored}")[:2] == (200, "engine: {}\n")


def test_an_artifact_is_a_sandboxed_attachment(study, tmp_path):
    """An HTML file that somebody uploaded never runs in the dashboard's origin, and no other site can read it."""
    from optuna_dashboard import wsgi

    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    (tmp_path / "store").mkdir()
    store = FileSystemArtifactStore(tmp_path / "store")
    uploaded = upload_artifact(artifact_store=store, file_path=str(tmp_path / "page.html"), study_or_trial=study)
    replies = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/artifacts/0/{uploaded}", "wsgi.input": io.BytesIO()}
    body = Guard(wsgi(study._storage, store), ())(environ, lambda *reply: replies.append(reply))
    assert b"alert" in b"".join(body)
    getattr(body, "close", lambda: None)()
    status, headers, _ = replies[0]
    assert status.startswith("200")
    assert [value for name, value in headers if name == "Content-Disposition"] == ["attachment"]
    assert ("X-Content-Type-Options", "nosniff") in headers
    assert ("Content-Security-Policy", "sandbox; default-src 'none'") in headers
    assert not any(name == "Access-Control-Allow-Origin" for name, _ in headers)


def large(n_trials, n_params):
    """A study of complete trials with random parameters."""
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    spread = optuna.distributions.FloatDistribution(0, 1)
    for number in range(n_trials):
        params = {f"parameter_{index}": ((number * 7919 + index * 31) % 99991) / 99991 for index in range(n_params)}
        trial = optuna.trial.create_trial(params=params, distributions=dict.fromkeys(params, spread), value=number)
        study._storage.create_new_trial(study._study_id, template_trial=trial)
    return study


def test_a_plot_that_would_be_huge_is_refused(monkeypatch):
    """With 1,000 trials and 10 parameters, contour and rank plots are not computed; the other plots are served."""
    study = large(1000, 10)
    assert plot_size(study._storage, 0, "contour") > 1e9
    for name in ("contour", "rank"):
        monkeypatch.setattr(optuna.visualization, f"plot_{name}", None)  # not called
    with serving(study._storage) as request:
        for path in ("contour", "rank", "contour/", "contour?x=1"):
            status, text, _ = request("GET", f"/api/studies/0/plot/{path}")
            assert status == 413
            assert "the limit is 20 MB" in json.loads(text)["reason"]
        for name in ("edf", "slice"):
            assert request("GET", f"/api/studies/0/plot/{name}")[0] == 200
        assert request("GET", "/api/studies/7/plot/contour")[0] == 404


@pytest.mark.parametrize(
    ("name", "n_trials", "n_params"),
    [
        *[("contour", 30, 5), ("contour", 300, 2), ("rank", 30, 5), ("rank", 300, 2)],
        *[("slice", 300, 2), ("parallel_coordinate", 300, 2), ("timeline", 300, 2)],
    ],
)
def test_the_size_of_a_plot_is_estimated(name, n_trials, n_params):
    """The estimate is not much less than the true size, and far from the limit for a small study."""
    study = large(n_trials, n_params)
    with serving(study._storage) as request:
        status, text, _ = request("GET", f"/api/studies/0/plot/{name}")
    assert status == 200
    layout = 60_000  # of subplots, whatever the number of trials
    assert len(text) - layout < 1.3 * plot_size(study._storage, 0, name) < PLOT_LIMIT


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_the_size_of_a_plot_counts_its_panels(names):
    """A panel for each pair of parameters, in both orders unless there are two; rank plots pair each with itself too.

    The cells of a contour plot are the distinct values with a margin on both sides. Only a timeline has all trials.
    """
    study, spread = optuna.create_study(), optuna.distributions.IntDistribution(0, 9)
    values = [[0, 1, 2, 3], [0, 1, 0, 1], [5, 5, 5, 5], [0, 1, 2, 0]][: len(names)]
    for row in zip(*values, strict=True):
        trial = optuna.trial.create_trial(
            params=dict(zip(names, row, strict=True)), distributions=dict.fromkeys(names, spread), value=1.0
        )
        study.add_trial(trial)
    study.ask()
    pairs = list(itertools.permutations([len(set(column)) + 2 for column in values], 2))[:: 2 if len(names) == 2 else 1]
    panels = 1 if len(names) == 2 else len(list(itertools.product(names, repeat=2)))
    assert {plot: plot_size(study._storage, 0, plot) for plot in ("contour", "rank", "slice", "timeline")} == {
        "contour": CELL * sum(wide * high for wide, high in pairs),
        "rank": 4 * panels * (POINT + sum(len(name) + 30 for name in names)),
        "slice": VALUE * 4 * (len(names) + 2),
        "timeline": VALUE * 5 * (len(names) + 2),
    }


@pytest.mark.parametrize(
    ("method", "path", "kind", "body"),
    [
        ("POST", "/api/studies", "application/json", b'{"reason": "no"}'),
        ("POST", "/dashboard", "text/plain; charset=utf-8", b"no\n"),
        ("HEAD", "/api/studies", "application/json", b""),
    ],
)
@pytest.mark.parametrize(("length", "read"), [("7", 7), ("9999999", DRAINED), ("", 0), (None, 0), ("x", None)])
def test_a_refusal_is_received_by_the_page_and_by_other_programs(method, path, kind, body, length, read):
    """Its body is read up to a limit first: a connection that is closed with unread data loses the reply."""
    replies, reads = [], []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": length}
    environ["wsgi.input"] = type("Input", (), {"read": lambda self, size: reads.append(size)})()
    rules = (lambda request: None, lambda request: Refusal("403 Forbidden", "no"), lambda request: 1 / 0)
    assert b"".join(Guard(None, rules)(environ, lambda *reply: replies.append(reply))) == body
    full = len(body) or len(b'{"reason": "no"}')
    assert replies == [("403 Forbidden", [("Content-Type", kind), ("Content-Length", str(full)), *HEADERS])]
    assert reads == [] if read is None else reads == [read]


@pytest.mark.parametrize(
    ("host", "writable", "address", "warned"),
    [
        ("127.0.0.1", False, "127.0.0.1:80/ (read-only; Ctrl-C ends it)", None),
        ("localhost", True, "localhost:80/ (writable; Ctrl-C ends it)", None),
        ("::1", False, "[::1]:80/ (read-only; Ctrl-C ends it)", None),
        ("0.0.0.0", False, "{name}:80/ (read-only; Ctrl-C ends it)", "0.0.0.0 port 80 can read the studies"),
        ("::", True, "{name}:80/ (writable; Ctrl-C ends it)", ":: port 80 can read and change the studies"),
        ("", False, "{name}:80/ (read-only; Ctrl-C ends it)", " port 80 can read the studies"),
        (
            "studies.example",
            False,
            "studies.example:80/ (read-only; Ctrl-C ends it)",
            "studies.example port 80 can read",
        ),
    ],
)
def test_the_address_is_announced_with_a_warning_if_others_can_reach_it(host, writable, address, warned, capsys):
    """An address of all networks is announced by the name of the machine; the URL has no password."""
    dashboard._announce("postgresql://u:secret@host/db", host, 80, writable)
    shown = capsys.readouterr()
    address = address.format(name=socket.gethostname())
    assert shown.out == f"postgresql://u:***@host/db is shown at http://{address}\n"
    if warned is None:
        assert shown.err == ""
    else:
        warning = "warning: the dashboard has no password; everyone who can reach "
        assert shown.err.startswith(f"{warning}{warned}")


def test_a_port_that_is_taken_is_an_error_and_the_storage_is_closed(tmp_path, monkeypatch):
    """In one line, with what to type."""
    optuna.create_study(study_name="a", storage=f"sqlite:///{tmp_path}/a.db")._storage.remove_session()
    closed = []
    monkeypatch.setattr(dashboard, "close", closed.append)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"^127\.0\.0\.1 port {port} cannot be used \(Address already in use\); give an"
        ):
            dashboard.serve(f"sqlite:///{tmp_path}/a.db", port)
    assert len(closed) == 1
    with pytest.raises(ConfigError, match=r"^no storage at .*none\.db; run a study first"):
        dashboard.serve(f"sqlite:///{tmp_path}/none.db", port)
    assert not (tmp_path / "none.db").exists(), "what only reads creates nothing"


@pytest.mark.parametrize(
    ("plot", "size", "line"),
    [
        ("timeline", PLOT_LIMIT, None),
        ("timeline", PLOT_LIMIT + 1, "the timeline plot would be about 20 MB; the limit is 20 MB"),
        (
            "contour",
            1_234_600_000,
            "the contour plot would be about 1,235 MB; the limit is 20 MB; plot fewer parameters with "
            "optuna.visualization.plot_contour(study, params=[...])",
        ),
    ],
)
def test_a_plot_that_is_too_large_is_refused_with_what_to_do(study, monkeypatch, plot, size, line):
    """Optuna can restrict some plots to a few parameters."""
    asked = []
    monkeypatch.setattr(guard, "plot_size", lambda *given: asked.append(given) or size)
    refused = guard.small_plot(study._storage, Request("GET", f"/api/studies/0/plot/{plot}", "", None, None, ""))
    assert asked == [(study._storage, 0, plot)]
    assert refused == (line and Refusal("413 Content Too Large", line))


@pytest.mark.parametrize(
    ("error", "told"), [(ConnectionResetError(), False), (TimeoutError(), False), (KeyError("x"), True)]
)
def test_a_client_that_disconnects_is_no_error(study, error, told, capsys):
    """Any other error has a traceback. A client that sends nothing is disconnected after a minute."""
    with dashboard.Server(study._storage, "127.0.0.1", 0) as server:
        assert server.daemon_threads
        assert server.RequestHandlerClass.timeout == 60
        try:
            raise error
        except (OSError, KeyError):
            server.handle_error(None, ("10.1.2.3", 5))
    assert ("10.1.2.3" in capsys.readouterr().err) == told


@pytest.mark.parametrize(("number", "public"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_one_signal_ends_the_program(tmp_path, number, public):
    """Ctrl-C and SIGTERM end the program at once; a public address is a warning on standard error."""
    optuna.create_study(study_name="a", storage=f"sqlite:///{tmp_path}/a.db")._storage.remove_session()
    options = ["--host", "0.0.0.0"] if public else []
    process = subprocess.Popen(
        [*PROGRAM, "dashboard", "--port", "0", "--storage", "a.db", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert re.search(r"http://\S+:\d+/ \(read-only", process.stdout.readline())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("no password" in err) == public
    assert "Traceback" not in err
