"""What the callbacks share: when the rates are refreshed."""

import pytest
import torch
from toy import network, toy

from dropopt.config import ConfigError, EngineConfig
from dropopt.integrations.driver import Driver


@pytest.mark.parametrize(("every", "due"), [(2, [2, 4, 6, 8]), (3, [3, 6, 9]), ("epoch", [])])
def test_rates_are_refreshed_every_so_many_steps(every, due, monkeypatch):
    """Counted over all epochs of five steps, except at the end of an epoch, where the metrics follow."""
    driver = Driver(EngineConfig(update_every=every), None, None, complexity=0.5)
    split = toy().train
    driver.start(network(), lambda: [(split.images[:4], split.labels[:4])], [])
    refreshed = []
    monkeypatch.setattr(driver.engine, "step", lambda **given: refreshed.append(round(given["epoch"] * 5)))
    for step in range(1, 11):
        driver.step_ended(step, step / 5, 2)
    assert refreshed == due


def test_updates_of_every_optimizer_are_dropped():
    """An optimizer may hold no layer whose updates are dropped, if another one does."""
    model, split = network(), toy().train
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[-1], model[:-1])]
    driver = Driver(EngineConfig(drop_updates=True), None, None, complexity=0.5)
    with pytest.raises(ConfigError, match=r"^drop_updates finds no layer in the optimizer"):
        driver.start(model, lambda: [(split.images[:4], split.labels[:4])], optimizers[:1])
    driver.start(model, lambda: [(split.images[:4], split.labels[:4])], optimizers)
    assert [len(optimizer._optimizer_step_post_hooks) for optimizer in optimizers] == [0, 1]


@pytest.mark.parametrize(("written", "known"), [("1", 1.0), ("0.25", 0.25), ("7.5", None)])
def test_the_complexity_of_a_file_is_a_number_in_0_to_1(written, known, tmp_path):
    """It may be written as a whole number; one out of range counts as unknown, and is measured."""
    file = tmp_path / "best.yaml"
    file.write_text(f"provenance: {{complexity: {written}}}")
    assert Driver(file, None, None).complexity == known
