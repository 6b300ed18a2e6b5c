"""The dashboard is safe by default: each rule is tested with real requests to a real server."""

import io
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

from dropopt.study.show.guard import Guard, Request, host_names, known_host, plain_path
from dropopt.study.show.plotsize import PLOT_LIMIT, plot_size

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


@pytest.mark.parametrize(("n_trials", "n_params"), [(30, 5), (300, 2)])
@pytest.mark.parametrize("name", ["contour", "rank", "slice", "parallel_coordinate", "timeline"])
def test_the_size_of_a_plot_is_estimated(name, n_trials, n_params):
    """The estimate is not much less than the true size, and far from the limit for a small study."""
    study = large(n_trials, n_params)
    with serving(study._storage) as request:
        status, text, _ = request("GET", f"/api/studies/0/plot/{name}")
    assert status == 200
    layout = 60_000  # of subplots, whatever the number of trials
    assert len(text) - layout < 1.3 * plot_size(study._storage, 0, name) < PLOT_LIMIT


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
