"""What the engine does around the equations: metrics, refusals, limits and states. Rates: ``test_restatement.py``."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from small_net import Net, batch, every_config, gradients, make
from torch import nn

from dropopt import EngineConfig, attach
from dropopt.config import METHODS, P_MAX, Baseline
from dropopt.engine.masks.mixture import mixture_gate
from dropopt.engine.masks.spatial import spatial_gate

ONLY = {f"w_{method}": 0.0 for method in METHODS}
ADAPTIVE, SPATIAL = ONLY | {"w_adaptive": 1.0}, ONLY | {"w_spatial": 1.0}
IMAGES, LABELS = batch()


def engine_of(**settings):
    return make(EngineConfig(**settings))[1]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("pattern", ["spatial", "own"])
def test_blocks_have_the_configured_size(pattern, size):
    """A site of the engine draws what the pattern's function draws with this side and the site's rates."""
    x = torch.rand(8, 6, 8, 8) + 0.5
    site = engine_of(block_size=size, pattern=pattern, importance="lrp", r0=0.4, **SPATIAL).sites["one.norm"]
    torch.manual_seed(0)
    masked = site.hook(nn.Identity().train(), (), x)
    torch.manual_seed(0)
    if pattern == "own":
        gate = mixture_gate(x, site.shares, site.shares, site.method_rates, size)
    else:
        gate = spatial_gate(x, site.p.view(-1, 1, 1), size)
    assert torch.equal(masked, gate.times(x))
    assert (masked == 0).any()


def test_a_rate_that_cannot_be_met_is_reported():
    """With too few eligible channels the highest possible rate is applied, and `applied` reports it."""
    engine = engine_of(alpha=0.0, r0=0.9, pattern="structured", structured_threshold=0.1, **ADAPTIVE)
    for seed in range(20):  # at this rate, a single step may drop every feature
        gradients(engine.model, seed)
    engine.step(epoch=1, epochs=4)
    for row in engine.rates():
        eligible = (engine.importances()[row["site"]] <= 0.1).float().mean().item()
        assert row["integrated"] == pytest.approx(0.9)
        assert row["applied"] == pytest.approx(P_MAX * eligible, rel=1e-5)
        assert row["applied"] < row["integrated"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"epoch": 5, "epochs": 4}, r"^epoch must be in \[0, 4\], got 5"),
        ({"epoch": 1, "epochs": 4, "val_loss": math.nan}, "val_loss must be finite, got nan"),
    ],
)
def test_an_invalid_step_is_refused(call, message):
    """An epoch outside its range, or a metric that is not finite, raises and changes nothing."""
    engine = engine_of()
    before = engine.rates()
    with pytest.raises(ValueError, match=message):
        engine.step(**call)
    assert engine.rates() == before


@every_config
def test_a_loop_that_counts_epochs_from_zero_is_reported(config):
    """A step at epoch 0 is reported if the model was trained before it, by gradients that are left or by new weights.

    Rates and metrics at the start are not, nor are passes in training mode without a step of an optimizer.
    """
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.unused = nn.LazyLinear(2)  # whose parameters have no values yet
    engine = attach(model, config, example=IMAGES, complexity=0.5)
    model.eval()(IMAGES)
    engine.step(epoch=0, epochs=2, val_loss=1.1, val_accuracy=0.3)
    model.train()
    for one in (engine, copy.deepcopy(engine)):
        one.model(IMAGES)
        one.step(epoch=0, epochs=2)
    for finish in (lambda: None, lambda: (optimizer.step(), optimizer.zero_grad())):
        model(IMAGES).square().mean().backward()
        finish()
        with pytest.warns(UserWarning, match=r"^epoch=0 after training: .* so give 1 after the first one") as caught:
            engine.step(epoch=0, epochs=2, train_loss=1.0, val_loss=1.1, val_accuracy=0.3)
        assert caught[0].filename == __file__, "where step() is called"
    model(IMAGES).square().mean().backward()
    engine.step(epoch=1, epochs=2)


@every_config
def test_a_model_that_holds_its_engine_is_copied_with_it(config):
    """The copy of the engine is that of the copy of the model, also if the model is copied first."""
    model, model.engine = make(config)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(IMAGES)
        other.engine.step(epoch=0, epochs=2)
        assert other.engine.model is other


@pytest.mark.parametrize("config", [EngineConfig(efficacy="adaptive"), Baseline(kind="dropout2d", schedule="linear")])
def test_metrics_become_plain_numbers(config):
    """Tensors and NumPy's integers are stored as numbers of Python, so that a checkpoint holds no code and no graph."""

    def metric(value):
        return torch.tensor(value, requires_grad=True) * 1

    engine = attach(Net(), config, example=IMAGES, complexity=metric(0.25))
    metrics = {"val_loss": metric(1.5), "train_loss": metric(0.5), "val_accuracy": metric(0.75)}
    engine.step(epoch=np.int64(1), epochs=np.int64(4), **metrics)
    file = io.BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    other = make(config)[1]
    other.load_state_dict(torch.load(file))
    assert other.rates() == engine.rates()


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
def test_a_step_without_a_probe_is_refused(importance):
    """An importance that only probe() measures is never silently constant, also after resuming."""
    engine, other = engine_of(importance=importance), engine_of(importance=importance)
    call = r"call engine\.probe\(images, labels\) with a training batch before engine\.step\(\.\.\.\)"
    with pytest.raises(ValueError, match=f"^importance '{importance}' is measured by a probe: {call}$"):
        engine.step(epoch=1, epochs=4)
    engine.probe(IMAGES, LABELS)
    engine.step(epoch=1, epochs=4)
    other.load_state_dict(engine.state_dict())
    other.step(epoch=2, epochs=4)
    engine_of(importance=importance, **ADAPTIVE).step(epoch=1, epochs=4)  # no member uses importances


def test_drop_updates_without_an_optimizer_is_refused():
    """step() before watch() is an error, because the engine must know the optimizer whose updates it masks."""
    message = r"^drop_updates masks the optimizer's updates: call engine\.watch\(optimizer\) before training$"
    with pytest.raises(ValueError, match=message):
        engine_of(drop_updates=True).step(epoch=1, epochs=4)


def test_unused_importances_cost_nothing():
    """No score is accumulated where neither a member nor the allocation uses importances, nor the safe area."""
    for settings, observed in ((ADAPTIVE, False), (SPATIAL, True)):
        engine = engine_of(**settings)
        gradients(engine.model)
        assert all((site.count, site.area < 1) == (observed, observed) for site in engine.sites.values())


def test_the_state_of_other_sites_is_refused():
    """The error names the sites of the state and those of the engine."""
    message = r"^the state belongs to sites \['one.norm', 'two.norm'\], this engine has \['one.norm'\]$"
    with pytest.raises(ValueError, match=message):
        engine_of(sites="one.norm").load_state_dict(engine_of().state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EngineConfig(pattern="own"),
            "another network, pattern, allocation or importance: 'method_rates' of site 'one.norm' has the shape None",
        ),
        (EngineConfig(allocation="feature"), r"'p' of site 'one.norm' has the shape \(1,\), expected \(6,\)$"),
        (
            EngineConfig(importance="statistical"),
            r"'totals' of site 'one.norm' has the shape \(1, 6\), expected \(2, 6\)$",
        ),
        (Baseline(kind="dropout"), r"^the state has \['complexity', .*\], which is not what state_dict\(\) of a base"),
    ],
)
def test_the_state_of_other_settings_is_refused(config, message):
    """One line says what differs."""
    engine, other = engine_of(), make(config)[1]
    with pytest.raises(ValueError, match=message) as error:
        other.load_state_dict(engine.state_dict())
    assert "\n" not in str(error.value)
    if isinstance(config, Baseline):
        with pytest.raises(ValueError, match=r"^the state has \['progress', 'rng'\], which is not what"):
            engine.load_state_dict(other.state_dict())


def test_a_state_has_its_rates_and_older_ones_get_them_by_the_equations():
    """A state before rates were stored has them recomputed; another one keeps them, even if sites were scored since."""
    engine, other = engine_of(allocation="feature"), engine_of(allocation="feature")
    gradients(engine.model)
    engine.step(epoch=1, epochs=4, val_loss=1.0)
    before = engine.rates()
    other.load_state_dict({key: value for key, value in engine.state_dict().items() if key != "rates"})
    assert other.rates() == before
    for site in engine.sites.values():
        site.set_importance(torch.arange(len(site.importance), 0, -1.0), 0.0)
    other.load_state_dict(engine.state_dict())
    assert other.rates() == before
    other.load_state_dict({**engine.state_dict(), "complexity": 0.75, "rates": before})
    assert other.complexity == 0.75
