"""How many trials fit on the nodes of a cluster, and what is refused; without Ray."""

import sys
from unittest.mock import Mock

import pytest

from dropopt.config import ConfigError
from dropopt.study.command import options
from dropopt.study.command.run import _cluster
from dropopt.study.run.cluster import Cluster


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "trials"),
    [
        (1, 0, {"CPU": 8.0}, 8),
        (3, 0, {"CPU": 8.0, "GPU": 2.0}, 2),
        (1, 0.25, {"CPU": 8.0, "GPU": 1.0}, 4),
        (1, 0.4, {"CPU": 8.0, "GPU": 2.0}, 4),  # a trial does not get shares of two cards
        (2, 2, {"CPU": 8.0, "GPU": 5.0}, 2),
        (2, 1, {"CPU": 3.0, "GPU": 5.0}, 1),
        (1, 0.5, {"CPU": 8.0}, 0),
        (1, 0, {}, 0),
    ],
)
def test_trials_that_fit_on_a_node(cpus, gpus, resources, trials):
    """Neither the cores nor the cards are exceeded."""
    assert Cluster(cpus=cpus, gpus=gpus)._fits(resources) == trials


def test_shares_that_ray_does_not_offer_are_refused():
    """Ray shares one card, or gives several whole ones."""
    for given in ({"gpus": 1.5}, {"gpus": -1}, {"cpus": 0}):
        with pytest.raises(ConfigError, match="-per-trial must be"):
            Cluster(**given)


def test_a_cluster_that_cannot_be_used_is_an_error(monkeypatch):
    """One line says what to type: without Ray, and where nothing listens."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in (None, "127.0.0.1:1", "ray://127.0.0.1:1"):
        monkeypatch.setitem(sys.modules, "ray", Mock(is_initialized=lambda: False))
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: .*refused"), Cluster(address).connected():
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'dropopt\[ray\]'"), Cluster().connected():
        pass


def test_options_of_a_cluster_need_the_cluster():
    """They are repeated in the command that resumes the study."""
    with pytest.raises(ConfigError, match="type: dropopt run --on ray --gpus-per-trial"):
        _cluster(options.Place.HERE, None, None, 0.5)
    cluster, line = _cluster(options.Place.RAY, "10.0.0.5:6379", 4, None)
    assert cluster == Cluster("10.0.0.5:6379", 4)
    assert line == ["--on", "ray", "--ray-address", "10.0.0.5:6379", "--cpus-per-trial", "4"]
    assert _cluster(options.Place.HERE, None, None, None) == (None, [])
