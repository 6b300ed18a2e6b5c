"""Monte Carlo dropout with an attached engine."""

import pytest
import torch
from torch import nn

import dropopt
from dropopt.config import Baseline, ConfigError, EngineConfig

IMAGES = torch.randn(64, 3, 8, 8)


def network():
    """A convolution whose norm is a place, and dropout of its own after it."""
    layers = (nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32 * 36, 4))
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "config", [EngineConfig(pattern="own", w_spatial=0.25, r0=0.4), Baseline(kind="dropout2d", p=0.3)]
)
def test_sampling_drops_in_eval_mode_and_changes_nothing(config):
    """The places drop at their current rates, the model's own dropout drops, and statistics, scores and modes stay."""
    torch.manual_seed(0)
    model = network().train()
    seen = {1: [], 3: []}
    for index, found in seen.items():
        model[index].register_forward_hook(lambda _, args, output, found=found: found.append(output))
    with dropopt.attach(model, config, example=IMAGES, complexity=0.5, inside="keep") as engine:
        for index, found in seen.items():  # behind the hook of the engine
            model[index].register_forward_hook(lambda _, args, output, found=found: found.append(output))
        model(IMAGES).sum().backward()
        model[0].eval()
        modes = [module.training for module in model.modules()]
        states = {**model.state_dict(), **{f"site {k}": v for k, v in engine.sites["1"].state_dict().items()}}
        before = {name: value.clone() for name, value in states.items()}
        for found in seen.values():
            found.clear()
        with torch.no_grad(), engine.sampling():
            assert not model[1].training
            assert model[3].training
            one, other = model(IMAGES), model(IMAGES)
            for _ in range(30):
                model(IMAGES)
        assert not torch.equal(one, other)
        share = float((torch.cat(seen[1][1::2]) == 0).float().mean())
        assert share == pytest.approx(engine.rates()[0]["applied"], abs=0.02)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in states.items())
        model.eval()
        with pytest.raises(ZeroDivisionError), engine.sampling():
            raise ZeroDivisionError
        assert torch.equal(model(IMAGES), model(IMAGES))
    with pytest.raises(ConfigError, match=r"^detach\(\) has removed the dropout: draw samples before it$"):
        engine.sampling().__enter__()
