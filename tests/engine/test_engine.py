"""What the engine does around the equations: metrics, refusals, limits and states. Rates: ``test_restatement.py``."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from dropopt import EngineConfig, attach
from dropopt.config import METHODS, P_MAX, Baseline
from dropopt.engine.masks.mixture import mixture_gate
from dropopt.engine.masks.spatial import spatial_gate

ONLY = {f"w_{method}": 0.0 for method in METHODS}
ADAPTIVE, SPATIAL = ONLY | {"w_adaptive": 1.0}, ONLY | {"w_spatial": 1.0}
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def train_step(model: nn.Module) -> float:
    loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
    loss.backward()
    return loss.item()


def engine_of(model: nn.Module, **settings):
    return attach(model, EngineConfig(**settings), example=IMAGES[:2], complexity=0.5)


@pytest.mark.parametrize("pattern", ["spatial", "own"])
def test_blocks_have_the_configured_size(pattern):
    """A site of the engine draws what the pattern's function draws with this side and the site's rates."""
    x, settings = torch.rand(8, 8, 8, 8) + 0.5, {"pattern": pattern, "importance": "lrp", "r0": 0.4, **SPATIAL}
    for size in (1, 4):
        with engine_of(network(), block_size=size, **settings) as engine:
            site = engine.sites["1"]
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
    model, settings = network(), {"alpha": 0.0, "r0": 0.9, "pattern": "structured", "structured_threshold": 0.1}
    with engine_of(model, **ADAPTIVE, **settings) as engine:
        for _ in range(20):  # at this rate, a single step may drop every feature
            train_step(model)
        engine.step(epoch=1, epochs=4)
        for row in engine.rates():
            eligible = (engine.importances()[row["site"]] <= 0.1).float().mean().item()
            assert row["integrated"] == pytest.approx(0.9)
            assert row["applied"] == pytest.approx(P_MAX * eligible, rel=1e-5)
            assert row["applied"] < row["integrated"]


@pytest.mark.parametrize(("step", "floor"), [(1e6, 0.2), (1e6, 0.0), (5.0, 0.0)])
def test_adaptive_efficacy_stays_legal_for_any_step_size(step, floor):
    """For any step size and number of steps in one direction, weights are valid and can recover."""
    settings = {"efficacy": "adaptive", "alpha": 0.9, "efficacy_step": step, "efficacy_floor": floor}
    with engine_of(network(), **settings) as engine:
        for val_loss in [2.0] * 100 + [0.5] * 40:
            engine.step(epoch=3, epochs=4, val_loss=val_loss, train_loss=1.0)
            weights = engine.weights()
            assert sum(weights.values()) == pytest.approx(1.0)
            assert min(w for m, w in weights.items() if m != "spatial") > 0
            if val_loss == 2.0:
                most = max(weights, key=weights.get)
        assert max(weights, key=weights.get) != most


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"epoch": 5, "epochs": 4}, r"^epoch must be in \[0, 4\], got 5"),
        ({"epoch": 1, "epochs": 4, "val_loss": math.nan}, "val_loss must be finite, got nan"),
        ({"epoch": 1, "epochs": 4, "train_loss": torch.ones(2)}, r"train_loss must be a number, got tensor\("),
    ],
)
def test_an_invalid_step_is_refused(call, message):
    """An epoch outside its range, or a metric that is not finite, raises and changes nothing."""
    with engine_of(network()) as engine:
        before = engine.rates()
        with pytest.raises(ValueError, match=message):
            engine.step(**call)
        assert engine.rates() == before


every_engine = pytest.mark.parametrize(
    "config", [EngineConfig(), Baseline(kind="dropout", schedule="linear")], ids=["engine", "baseline"]
)


@every_engine
def test_a_loop_that_counts_epochs_from_zero_is_reported(config):
    """A step at epoch 0 is reported if the model was trained before it, by gradients that are left or by new weights.

    Rates and metrics at the start are not, nor are passes in training mode without a step of an optimizer.
    """
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[0].unused = nn.LazyLinear(2)  # whose parameters have no values yet
    with attach(model, config, example=IMAGES, complexity=0.5) as engine:
        model.eval()(IMAGES)
        engine.step(epoch=0, epochs=2, val_loss=1.1, val_accuracy=0.3)
        model.train()
        for one in (engine, copy.deepcopy(engine)):
            one.model(IMAGES)
            one.step(epoch=0, epochs=2)
        for finish in (lambda: None, lambda: (optimizer.step(), optimizer.zero_grad())):
            train_step(model)
            finish()
            with pytest.warns(
                UserWarning, match=r"^epoch=0 after training: .* so give 1 after the first one"
            ) as caught:
                engine.step(epoch=0, epochs=2, train_loss=1.0, val_loss=1.1, val_accuracy=0.3)
            assert caught[0].filename == __file__, "where step() is called"
        train_step(model)
        engine.step(epoch=1, epochs=2)


@every_engine
def test_a_model_that_holds_its_engine_is_copied_with_it(config):
    """The copy of the engine is that of the copy of the model, also if the model is copied first."""
    model = network()
    with attach(model, config, example=IMAGES, complexity=0.5) as engine:
        model.engine = engine
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other(IMAGES)
            other.engine.step(epoch=0, epochs=2)
            assert other.engine.model is other


@pytest.mark.parametrize("kind", [np.float32, "with a graph"])
@pytest.mark.parametrize("config", [EngineConfig(efficacy="adaptive"), Baseline(kind="dropout2d", schedule="linear")])
def test_metrics_of_every_type_become_numbers(config, kind):
    """Numbers of NumPy and tensors are stored as plain floats, so that a checkpoint holds no code and no graph."""

    def metric(value):
        return torch.tensor(value, requires_grad=True) * 1 if kind == "with a graph" else kind(value)

    with attach(network(), config, example=IMAGES[:2], complexity=metric(0.25)) as engine:
        metrics = {"val_loss": metric(1.5), "train_loss": metric(0.5), "val_accuracy": metric(0.75)}
        engine.step(epoch=np.int64(1), epochs=np.int64(4), **metrics)
        file = io.BytesIO()
        torch.save(engine.state_dict(), file)
        file.seek(0)
        with attach(network(), config, example=IMAGES[:2], complexity=0.5) as other:
            other.load_state_dict(torch.load(file))
            assert other.rates() == engine.rates()


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
def test_a_step_without_a_probe_is_refused(importance):
    """An importance that only probe() measures is never silently constant, also after resuming."""
    with engine_of(network(), importance=importance) as engine, engine_of(network(), importance=importance) as other:
        call = r"call engine\.probe\(images, labels\) with a training batch before engine\.step\(\.\.\.\)"
        with pytest.raises(ValueError, match=f"^importance '{importance}' is measured by a probe: {call}$"):
            engine.step(epoch=1, epochs=4)
        engine.probe(IMAGES, LABELS)
        engine.step(epoch=1, epochs=4)
        other.load_state_dict(engine.state_dict())
        other.step(epoch=2, epochs=4)
    with engine_of(network(), importance=importance, **ADAPTIVE) as engine:
        engine.step(epoch=1, epochs=4)  # no member uses importances


def test_drop_updates_without_an_optimizer_is_refused():
    """step() before watch() is an error, because the engine must know the optimizer whose updates it masks."""
    message = r"^drop_updates masks the optimizer's updates: call engine\.watch\(optimizer\) before training$"
    with engine_of(network(), drop_updates=True) as engine, pytest.raises(ValueError, match=message):
        engine.step(epoch=1, epochs=4)


def test_unused_importances_cost_nothing():
    """No score is accumulated where neither a member nor the allocation uses importances, nor the safe area."""
    model = network()
    for settings, observed in ((ADAPTIVE, False), (SPATIAL, True)):
        with engine_of(model, **settings) as engine:
            train_step(model)
            assert all((site.count, site.area < 1) == (observed, observed) for site in engine.sites.values())


def test_the_state_of_other_sites_is_refused():
    """The error names the sites of the state and those of the engine."""
    refused = pytest.raises(ValueError, match=r"^the state belongs to sites \['1', '4'\], this engine has \['4'\]$")
    with engine_of(network()) as engine, engine_of(network(), sites="last:1") as other, refused:
        other.load_state_dict(engine.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pattern": "own"},
            r"another pattern, allocation or importance: 'method_rates' of site '1' has the shape None",
        ),
        ({"allocation": "feature"}, r"'p' of site '1' has the shape \(1,\), expected \(8,\)$"),
        ({"importance": "statistical"}, r"'totals' of site '1' has the shape \(1, 8\), expected \(2, 8\)$"),
        (Baseline(kind="dropout"), r"^the state has \['complexity', .*\], which is not what state_dict\(\) of a base"),
    ],
)
def test_the_state_of_other_settings_is_refused(settings, message):
    """One line says what differs."""
    config = settings if isinstance(settings, Baseline) else EngineConfig(**settings)
    with engine_of(network()) as engine, attach(network(), config, example=IMAGES[:2], complexity=0.5) as other:
        with pytest.raises(ValueError, match=message) as error:
            other.load_state_dict(engine.state_dict())
        assert "\n" not in str(error.value)
        if isinstance(config, Baseline):
            with pytest.raises(ValueError, match=r"^the state has \['progress', 'rng'\], which is not what"):
                engine.load_state_dict(other.state_dict())


def test_a_state_has_its_rates_and_older_ones_get_them_by_the_equations():
    """A state before rates were stored has them recomputed; another one keeps them, even if sites were scored since."""
    model = network()
    with engine_of(model, allocation="feature") as engine, engine_of(network(), allocation="feature") as other:
        train_step(model)
        engine.step(epoch=1, epochs=4, val_loss=1.0)
        old = {key: value for key, value in engine.state_dict().items() if key != "rates"}
        other.load_state_dict(old)
        assert other.rates() == engine.rates()
        before = engine.rates()
        for site in engine.sites.values():
            site.set_importance(torch.arange(len(site.importance), 0, -1.0), 0.0)
        other.load_state_dict(engine.state_dict())
        assert other.rates() == before
        other.load_state_dict({**engine.state_dict(), "complexity": 0.75, "rates": before})
        assert other.complexity == 0.75
