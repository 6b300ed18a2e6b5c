"""A study on a Ray cluster of two nodes, one of which dies."""

import os
import warnings

import pytest
from outside import check_whole, finish, reporting, start, trials
from processes import wait_until

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

#: How fast the cluster notices that a node is dead.
HEALTH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """A head with one core; tests add nodes."""
    pytest.importorskip("ray")
    with warnings.catch_warnings(action="ignore"):
        from ray.cluster_utils import Cluster

        os.environ |= {"FAKE_SECONDS": "0.25", "FAKE_CHECKPOINTS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        try:
            made = Cluster(head_node_args={"num_cpus": 1, "_system_config": HEALTH}, initialize_head=True)
        finally:
            for name in ("FAKE_SECONDS", "FAKE_CHECKPOINTS"):
                del os.environ[name]
    yield made
    made.shutdown()


def test_a_study_outlives_a_node(cluster, server, tmp_path, monkeypatch):
    """The trial of the dead node continues from its checkpoint on the other one; nothing is lost or runs twice."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    for name, value in {"FAKE_SECONDS": "0.25", "FAKE_CHECKPOINTS": "1"}.items():
        monkeypatch.setenv(name, value)
    node = cluster.add_node(num_cpus=1)

    code, out = finish(start(tmp_path / "s.db", n_jobs=2, n_trials=4, on_ray=1))
    assert (code, len(out.splitlines())) == (2, 2), out
    assert "is a file of this machine, and the Ray cluster has 2 nodes" in out

    folder = tmp_path / "shared"
    options = {"n_trials": 5, "pruner": "none", "on_ray": 1, "checkpoints": str(folder)}
    process = start(server.url, n_jobs=-1, **options)
    wait_until(lambda: len([trial for trial in reporting(server.url) if len(trial.intermediate_values) > 2]) == 2)
    cluster.remove_node(node, allow_graceful=False)
    code, out = finish(process)
    assert code == 0, out
    assert "2 at a time" in out
    assert "continues in a new process: its node has died" in out
    assert "canary" not in out
    found = trials(server.url)
    check_whole(found, 5)
    assert len(found) == 5
    trained = (folder / "epochs").read_text().split("\n")[:-1]
    repeated = len(trained) - len(set(trained))
    assert repeated <= 1, "only the epoch that the node was training is trained again"
    assert len(set(trained)) == 5 * 8
    assert [path.name for path in folder.iterdir()] == ["epochs"]
