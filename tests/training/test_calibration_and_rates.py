"""The temperature of a network's logits, and drop rates as tensors."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from toy import network, toy

from dropopt import attach
from dropopt.config import P_MAX, Baseline, ConfigError, EngineConfig
from dropopt.training.calibration import temperature_of
from dropopt.training.rates import apply_rates, rates_of


def test_the_temperature_is_the_slope_of_a_logistic_regression():
    draw = torch.Generator().manual_seed(0)
    gap = 6 * torch.randn(300, generator=draw)
    labels = (torch.rand(300, generator=draw) > torch.sigmoid(gap / 2.5)).long()  # class 0 has the larger logit
    logits = torch.stack([gap, torch.zeros(300)], 1)
    rest = 1 / 302 / 2  # of the smoothed targets, for the other class
    model = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10)
    model.fit(
        torch.cat([gap, gap])[:, None].numpy(),
        torch.cat([1 - labels, labels]).numpy(),
        sample_weight=torch.cat([torch.full((300,), 1 - rest), torch.full((300,), rest)]).numpy(),
    )
    found = temperature_of(logits.float().requires_grad_(), labels)
    assert found == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)
    assert found == pytest.approx(2.5, rel=0.3)
    assert temperature_of(3 * logits + 5, labels) == pytest.approx(3 * found, rel=1e-3)  # a shift changes nothing


def test_the_temperature_has_limits():
    logits = torch.tensor([[4.0, 0.0, 0.0]]).repeat(8, 1)
    # The best confidence is the smoothed target, 1 - 0.1 + 0.1 / 3: exp(4 / T) = 2 * 0.9333 / 0.0667.
    expected = 4 / torch.tensor(2 * (0.9 + 0.1 / 3) / (0.2 / 3)).log()
    assert temperature_of(logits, torch.zeros(8).long()) == pytest.approx(float(expected), rel=1e-3)
    assert temperature_of(logits, torch.ones(8).long()) == pytest.approx(20, rel=1e-2)
    assert temperature_of(logits / 1000, torch.zeros(8).long()) == pytest.approx(0.05, rel=1e-2)


def attached(settings, model=None):
    return attach(model or network(), settings, example=toy().train.images[:2], complexity=0.5)


ENGINES = [
    EngineConfig(allocation="feature"),
    EngineConfig(pattern="own"),
    Baseline(kind="dropout", p=0.25),
    Baseline(kind="dropblock", p=0.25),
    Baseline(kind="dropblock", p=0.25, library="timm"),
]


@pytest.mark.parametrize("settings", ENGINES)
def test_rates_are_applied_to_another_engine(settings):
    """They are copies, on the CPU, of what the first engine applies then."""
    keys = {"p", "shares", "method_rates"} if getattr(settings, "pattern", "") == "own" else {"p"}
    key = "r0" if isinstance(settings, EngineConfig) else "p"
    found = []
    for rate in (0.1, 0.4):
        with attached(settings.model_copy(update={key: rate})) as engine:
            own = rates_of(engine)
            assert own.keys() == set(engine.sites) != set()
            if found:
                assert not any(torch.equal(own[name]["p"], tensors["p"]) for name, tensors in found[0].items())
                apply_rates(engine, found[0])
            found.append(rates_of(engine))
    for name, tensors in found[0].items():
        assert tensors.keys() == found[1][name].keys() == keys
        assert all(torch.equal(tensor, found[1][name][key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("settings", ENGINES)
def test_wrong_rates_are_refused(settings):
    with attached(settings) as engine:
        name, tensors = next(iter(rates_of(engine).items()))
        p, shape = tensors["p"], tuple(tensors["p"].shape)
        for wrong, said in (
            ({"nowhere": {}}, "there are drop rates for 'nowhere', where nothing is dropped"),
            ({name: {}}, f"drop rates 'p' of {name!r} must have the shape {shape}, got none"),
            ({name: tensors | {"p": torch.zeros(3, 3)}}, f"must have the shape {shape}, got (3, 3)"),
            ({name: tensors | {"p": 0 * p - 0.5}}, f"'p' of {name!r} must be in [0, {P_MAX}], got -0.5 to -0.5"),
            ({name: tensors | {"p": 0 * p + 0.96}}, f"must be in [0, {P_MAX}], got 0.96 to 0.96"),
            ({name: tensors | {"p": p * torch.nan}}, "got nan to nan"),
        ):
            with pytest.raises(ConfigError) as caught:
                apply_rates(engine, wrong)
            assert said in str(caught.value)
        apply_rates(engine, {name: tensors | {"p": 0 * p + P_MAX}})


def test_without_masks_there_are_no_rates():
    """No engine, and an engine that drops updates only."""
    assert rates_of(None) == {}
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    for engine in (attached(EngineConfig(drop_updates="only")), attached(Baseline(kind="none"), model)):
        with engine:
            assert rates_of(engine) == {}
