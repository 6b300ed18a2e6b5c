"""What the tests of the integrations share: toy data in a loader, and settings that need every call of an engine."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from dropopt.config import EngineConfig
from dropopt.engine import DropoutEngine

#: Needs a probe, refreshes within an epoch, and masks the optimizer's updates.
DEMANDING = EngineConfig(
    r0=0.4, allocation="importance", importance="lrp", update_every=4, drop_updates=True, efficacy="adaptive"
)


def loader(split, shuffle=False):
    """Batches of 16."""
    return DataLoader(TensorDataset(split.images.contiguous(), split.labels), batch_size=16, shuffle=shuffle)


def refreshes(monkeypatch):
    """Return a list to which every refresh of the rates of any engine adds the progress of training."""
    seen, step = [], DropoutEngine.step

    def spy(engine, **given):
        step(engine, **given)
        seen.append(engine._metrics.progress)

    monkeypatch.setattr(DropoutEngine, "step", spy)
    return seen


def assert_continued(whole, rest):
    """Assert that two trainings ended alike, each a model and its engine: weights, rates, importances, no hooks."""
    (model, engine), (other, again) = whole, rest
    assert again.rates() == engine.rates()
    importances = engine.importances()
    assert all(torch.equal(value, importances[name]) for name, value in again.importances().items())
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in (*model.modules(), *other.modules()))
