"""What the callbacks share: when the rates are refreshed."""

import pytest
from toy import network, toy

from dropopt.config import EngineConfig
from dropopt.integrations.driver import Driver, MetricNames


@pytest.mark.parametrize(("every", "due"), [(2, [2, 4, 6, 8]), (3, [3, 6, 9]), ("epoch", [])])
def test_rates_are_refreshed_every_so_many_steps(every, due, monkeypatch):
    """Counted over all epochs of five steps, except at the end of an epoch, where the metrics follow."""
    driver = Driver(EngineConfig(update_every=every), MetricNames(None, None), complexity=0.5)
    split = toy().train
    driver.start(network(), lambda: [(split.images[:4], split.labels[:4])], [])
    refreshed = []
    monkeypatch.setattr(driver.engine, "step", lambda **given: refreshed.append(round(given["epoch"] * 5)))
    for step in range(1, 11):
        driver.step_ended(step, step / 5, 2)
    assert refreshed == due
