"""Networks with several heads, other return values or parametrised weights."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Network
from torch import nn

import dropopt
from dropopt.config import ConfigError, EngineConfig
from dropopt.engine.places.find import survey

EXAMPLE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    """What a network may return."""

    logits: Any
    other: Any


@dataclass
class Unset:
    """A data class, one of whose fields has no value."""

    value: Any = field(init=False)


class Held:
    """Another object that a network may return; it refers to other things as well."""

    def __init__(self, logits, other):
        self.kind, self.unset = Unset, Unset()
        self.logits, self.parts, self.itself = logits, [other, self], self


RETURNS = {
    "object": lambda a, b, x: Held(a, b),
    "namespace": lambda a, b, x: SimpleNamespace(logits=a, other=b),
    "data class": lambda a, b, x: Output(a, b),
    "mapping": lambda a, b, x: {"other": b, "logits": a},
    "other mapping": lambda a, b, x: {"out": a, "aux": b},
    "tuple": lambda a, b, x: (a, b),
    "nested": lambda a, b, x: (a, [{"other": b}]),
    "features too": lambda a, b, x: (a, b, x),
    "sum": lambda a, b, x: a + b,
    "first": lambda a, b, x: a,  # the other head is for training only, as in deep supervision
    "second": lambda a, b, x: b,
}


def heads(returns):
    """Two heads on one trunk, one of them with a hidden layer, whose logits are returned in this form."""

    def run(self, x):
        x = nn.functional.relu_(self.norm(self.conv(x)))
        pooled = x.mean((2, 3))
        return self.returns(self.head(pooled), self.other(pooled), x)

    other = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh())
    parts = {"conv": nn.Conv2d(3, 6, 3), "norm": nn.BatchNorm2d(6), "head": nn.Linear(6, 4), "other": other}
    return Network(run, **parts, returns=RETURNS[returns])


@pytest.mark.parametrize("returns", RETURNS)
def test_no_head_of_several_is_a_site(returns):
    """No layer that gives an output is a place, in any form of output; layers before these are."""
    model = heads(returns)
    assert [place.name for place in survey(model, "auto", EXAMPLE).places] == ["norm", "other.0"]
    for name in ("head", "other.2", "other.3"):
        with pytest.raises(ConfigError, match=f"^module '{name}' gives the network's output"):
            survey(model, name, EXAMPLE)


def test_layers_whose_features_are_detached_are_places():
    """No gradient leads from the output to them, but they have other features than a head."""
    detached = Network(lambda self, x: x.mean((2, 3)).detach())
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), detached, nn.Linear(6, 4))
    assert [place.name for place in survey(model, "auto", EXAMPLE).places] == ["1"]


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
@pytest.mark.parametrize("returns", ["object", "data class", "mapping", "other mapping", "tuple"])
def test_probes_find_the_logits(returns, importance):
    """Logits are the first element or entry, or the entry or attribute ``logits``; labels may have any integer type."""
    model, found = heads(returns), []
    for form, kind in ((returns, torch.uint8), ("first", torch.int64)):
        model.returns = RETURNS[form]
        config = EngineConfig(importance=importance)
        with dropopt.attach(model, config, example=EXAMPLE, complexity=0.5, sites="norm") as engine:
            engine.probe(EXAMPLE, torch.tensor([0, 1, 2, 3], dtype=kind))
            found.append(engine.importances()["norm"])
    assert torch.equal(*found)
    assert found[0].std() > 0


@pytest.fixture(name="probed")
def _probed():
    """A network with a mapping as its output, and an engine that probes it."""
    model = heads("mapping")
    return model, dropopt.attach(model, EngineConfig(importance="gradient"), example=EXAMPLE, complexity=0.5)


def test_a_probe_without_logits_is_refused(probed):
    """The error says what the model must return."""
    model, engine = probed
    for given in ({}, SimpleNamespace(scores=1)):
        model.returns = lambda a, b, x, given=given: given
        message = f"^a probe takes a model that returns logits, first or as 'logits', got {type(given).__name__}$"
        with pytest.raises(ValueError, match=message):
            engine.probe(EXAMPLE, torch.tensor([0, 1, 2, 3]))
    for logits, labels, shown in ((4, 3, r"\(3,\) and \(4, 4\)"), (2, 2, r"\(2,\) and \(2, 4, 1\)")):
        model.returns = lambda a, b, x, n=logits: a[:n].reshape(n, 4, *[1] * (n == 2))
        message = rf"^a probe takes class numbers .* or targets in the shape of the outputs, got {shown}; with other"
        with pytest.raises(ValueError, match=message):
            engine.probe(EXAMPLE, torch.arange(labels))


def test_a_probe_takes_the_targets_of_one_output(probed):
    """Targets by name, as for a network with several heads, are refused in a line that says what to give."""
    message = r"^the labels of a probe must be a tensor, got dict: give the targets of the first output, or choose"
    with pytest.raises(ConfigError, match=message):
        probed[1].probe(EXAMPLE, {"a": torch.arange(4)})


@pytest.mark.parametrize("number", [-1, 4, 255])
def test_a_probe_refuses_numbers_that_are_no_classes(probed, number):
    """The error names the range, the number, and how to mark what a loss with another ``ignore_index`` ignores."""
    _, engine = probed
    labels = torch.tensor([0, number, 2, -100])
    with pytest.raises(ValueError, match=r"^a probe takes class numbers from 0 to 3, and -100 for what") as caught:
        engine.probe(EXAMPLE, labels)
    assert str(caught.value).endswith(f"give labels.masked_fill(labels == {number}, -100)")
    engine.probe(EXAMPLE, labels.masked_fill(labels == number, -100))


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_weights_are_no_activations(kind):
    """Weight norm and spectral norm return weights; the place is the layer."""
    wrap = getattr(nn.utils.parametrizations, kind)
    model = nn.Sequential(wrap(nn.Conv2d(3, 6, 3)), nn.ReLU(), nn.Flatten(), wrap(nn.Linear(216, 5)))
    for sites in ("auto", "conv"):
        assert [place.name for place in survey(model, sites, EXAMPLE).places] == ["0"]
    with pytest.raises(ConfigError, match=r"^sites 'norm' matches no module"):
        survey(model, "norm", EXAMPLE)
