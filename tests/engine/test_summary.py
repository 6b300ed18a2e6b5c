"""What an engine says about itself, and dropout that the network has of its own."""

import re

import pytest
import torch
import torchvision
from residual_net import EXAMPLE, Net
from torch import nn

import dropopt
from dropopt.config import Baseline, ConfigError, EngineConfig


class Regularised(nn.Module):
    """A convolution with dropout after the activation, and dropout before the output layer, where no engine drops."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.drop = nn.Dropout2d(0.3)
        self.embed = nn.Linear(6, 5)
        self.late = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        """Logits."""
        return self.head(self.late(self.embed(self.drop(torch.relu(self.conv(x))).mean((2, 3)))))


def attach(model, config=None, **options):
    return dropopt.attach(model, config or EngineConfig(), example=EXAMPLE, complexity=0.5, **options)


def test_the_summary_has_a_row_for_each_place_and_method():
    """Names, module types, shapes of one sample, depth and rates; metrics that are missing are named."""
    with attach(Net(), EngineConfig(r0=0.3, w_contextual=0), sites=("norm", "linear")) as engine:
        lines = engine.summary().splitlines()
        assert lines[0] == "Net: 4 places, pattern channel, allocation uniform, 0% of training done"
        assert lines[1].split() == ["place", "module", "output", "depth", "integrated", "applied"]
        cells = [re.split(r" {2,}", line) for line in lines[2:6]]
        assert [row[:4] for row in cells] == [
            ["stem_norm", "BatchNorm2d", "6 x 6 x 6", "0.20"],
            ["blocks.0.norm", "BatchNorm2d", "6 x 6 x 6", "0.40"],
            ["blocks.1.norm", "BatchNorm2d", "6 x 6 x 6", "0.60"],
            ["hidden", "Linear", "10", "0.80"],
        ]
        for row, rates in zip(cells, engine.rates(), strict=True):
            assert row[4:] == [f"{rates['integrated']:.3f}", f"{rates['applied']:.3f}"]
        assert [line.split()[0] for line in lines[6:12]] == [
            *("method", "adaptive", "structured", "contextual", "pfid", "spatial")
        ]
        assert lines[12:] == ["not reported yet: val_loss"]
        engine.step(epoch=1, epochs=4, val_loss=0.9)
        assert "25% of training done" in engine.summary()
        assert "not reported" not in engine.summary()


def test_repr_names_model_places_and_rates():
    """Of the engine, of a baseline, and of their sites."""
    engine = attach(Net(), EngineConfig(w_structured=0, w_contextual=0, w_pfid=0))
    assert repr(engine) == "DropoutEngine(Net, 2 places, pattern channel, applied 0.250)"
    assert repr(engine.sites["blocks.0"]) == "DropoutSite(6 features, axis=1, pattern='channel', p=0.250)"
    engine.detach()
    assert repr(engine).endswith(", detached)")
    baseline = attach(Net(), Baseline(kind="dropout2d", p=0.2))
    assert repr(baseline) == "BaselineEngine(Net, 2 places, dropout2d, constant p = 0.2)"
    assert baseline.summary().splitlines()[0] == "Net: 2 places, dropout2d, constant p = 0.2, 0% of training done"
    assert "Dropout2d" in repr(baseline.sites["blocks.0"])


# -- dropout inside


def test_dropout_at_the_same_places_is_named():
    """Only the layers that pass on the features of a place, or lie in a place, are named."""
    message = "Regularised has dropout of its own where the engine drops: Dropout2d 'drop' (p = 0.3). Pass inside="
    with pytest.warns(UserWarning, match=re.escape(message)):
        attach(Regularised(), sites="conv").detach()
    with pytest.raises(ConfigError, match=re.escape("Dropout 'late' (p = 0.5)")):
        attach(Regularised(), sites="embed", inside="error")
    attach(Net(), inside="error").detach()  # it has none
    with pytest.raises(ConfigError, match="inside must be one of keep, replace, error, got 'off'"):
        attach(Net(), inside="off")


@pytest.mark.parametrize("config", [EngineConfig(), Baseline(kind="none"), Baseline(kind="dropout2d")])
def test_replace_switches_it_off_until_detach(config):
    """A layer at a place drops nothing while the engine is attached; other dropout layers stay as they are."""
    model = Regularised()
    with attach(model, config, sites="conv", inside="replace"):
        assert (model.drop.p, model.late.p) == (0, 0.5)
    assert (model.drop.p, model.late.p) == (0.3, 0.5)
    with attach(model, config, sites="conv", inside="keep") as engine:
        assert model.drop.p == 0.3
        assert "network itself at these places: Dropout2d 'drop' (p = 0.3), which drops as well" in engine.summary()


def test_stochastic_depth_in_a_block_is_taken_over():
    """torchvision's ConvNeXt has stochastic depth in its blocks, which are the places."""
    block = torchvision.models.convnext.CNBlock
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block(4, 1.0, 0.25), block(4, 1.0, 0.5), *head)
    with attach(model, inside="replace") as engine:
        assert list(engine.sites) == ["1", "2"]
        assert (model[1].stochastic_depth.p, model[2].stochastic_depth.p) == (0, 0)
    assert (model[1].stochastic_depth.p, model[2].stochastic_depth.p) == (0.25, 0.5)
