"""Relevance matches explicit redistribution, zennit and Captum, and is conserved in any network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import Network
from one_operation import TINY, redistributed
from probe_models import CLASSES, Functional, batch, places_of, plain, worn
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.rules import Epsilon, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear

from dropopt.engine.importance.lrp import rules
from dropopt.engine.importance.probes import propagate
from dropopt.engine.places.place import Place


def relevances(
    model: nn.Module, images: Tensor, labels: Tensor, sites: Any = "*", **kwargs: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the relevance at places, the relevance at the input, and the logits."""
    whole = nn.Sequential(nn.Identity(), model)
    places = {"input": Place("input", whole[0], 1, images.shape[1], images.ndim, 1.0, ())}
    if sites != "*":
        places |= places_of(model, images, sites)
    found: dict[str, Tensor] = {}
    logits = propagate(whole, places, images, labels, found.__setitem__, **kwargs)
    return found, found.pop("input"), logits


def _matrix(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the matrix (out, in) of a linear layer without its bias, from its response to unit vectors."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
    zero = layer(torch.zeros_like(units[:1]))
    return (layer(units) - zero).flatten(1).T.detach()


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "z_plus"])
def test_relevance_matches_explicit_redistribution(rule: str) -> None:
    """Through two dense layers, a mean, a residual sum, two BatchNorms and two convolutions, in float64 loops."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.one(x)))
        return self.head(F.silu(self.hidden((x + self.norm2(self.two(x))).mean((2, 3)))))

    block = Network(
        run,
        one=nn.Conv2d(2, 3, 3, padding=1),
        norm1=nn.BatchNorm2d(3),
        two=nn.Conv2d(3, 3, 3, padding=1, bias=False),
        norm2=nn.BatchNorm2d(3),
        hidden=nn.Linear(3, 4),
        head=nn.Linear(4, CLASSES),
    )
    model = worn(block).double().eval().requires_grad_(False)
    images, labels = batch(2, 4)
    images = images.double()
    found, at_input, logits = relevances(model, images, labels, ("norm1", "norm2", "hidden"), rule=rule, epsilon=TINY)
    conv, dense = rule != "epsilon", rule == "z_plus"
    for n, image in enumerate(images):
        first, second = nn.Sequential(model.one, model.norm1), nn.Sequential(model.two, model.norm2)
        x = F.relu(first(image[None]))
        y = second(x)
        pooled = (x + y).mean((2, 3)).flatten()
        hidden = model.hidden(pooled)
        r = torch.zeros(CLASSES, dtype=torch.float64)
        r[labels[n]] = logits[n]
        r = redistributed(model.head.weight, F.silu(hidden), model.head.bias, r, dense)
        torch.testing.assert_close(found["hidden"][n], r)
        r = redistributed(model.hidden.weight, pooled, model.hidden.bias, r, dense)
        mean = torch.eye(3, dtype=torch.float64).repeat_interleave(16, 1) / 16
        r = redistributed(mean, (x + y).flatten(), torch.zeros(3), r, False)
        share = (x / (x + y)).flatten()
        torch.testing.assert_close(found["norm2"][n].flatten(), r * (1 - share))
        shift = second(torch.zeros_like(x)).flatten()
        r = r * share + redistributed(_matrix(second, (3, 4, 4)), x.flatten(), shift, r * (1 - share), conv)
        torch.testing.assert_close(found["norm1"][n].flatten(), r)
        shift = first(torch.zeros_like(image[None])).flatten()
        r = redistributed(_matrix(first, (2, 4, 4)), image.flatten(), shift, r, conv)
        torch.testing.assert_close(at_input[n].flatten(), r)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (Functional, "epsilon"),
        (Functional, "epsilon_plus"),
        (lambda: models.densenet.DenseNet(8, (2, 3), 16, num_classes=CLASSES), "epsilon_plus"),
        (lambda: models.efficientnet_b0(num_classes=CLASSES), "epsilon_plus"),
    ],
)
def test_relevance_is_conserved_without_biases(make: Any, rule: str) -> None:
    """The relevance at the input sums to the logit of each sample, through residual sums, gates and concatenations."""
    model = worn(make(), bias=False).double().eval()
    images, labels = batch() if isinstance(model, Functional) else batch(2, 32, 3)
    _, at_input, logits = relevances(model, images.double(), labels, rule=rule, epsilon=TINY)
    torch.testing.assert_close(at_input.flatten(1).sum(1), logits, rtol=1e-5, atol=0)


def _flat(self: Any, x: Tensor) -> Tensor:
    """Run ``plain`` without the flatten module, for which Captum has no rule."""
    for layer in self.layers:
        x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
    return x


@pytest.mark.filterwarnings("ignore")  # Captum warns about the hooks that it sets
@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_relevance_agrees_with_captum(rule: str) -> None:
    """With biases: Captum's epsilon rule at the input and every layer, and its alpha-1-beta-0 rule, which is z+."""
    from captum.attr import LRP, LayerLRP
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

    layers = nn.ModuleList(module for module in plain() if not isinstance(module, nn.Flatten))
    model, (images, labels) = Network(_flat, layers=layers).double(), batch()
    images = images.double().abs()  # Captum's z+ is for positive inputs
    for module in model.layers:
        if isinstance(module, nn.Conv2d | nn.Linear):
            plus = rule == "epsilon_plus" and isinstance(module, nn.Conv2d)
            module.rule = Alpha1_Beta0_Rule() if plus else EpsilonRule(epsilon=TINY)
    found, at_input, _ = relevances(model, images, labels, ("conv", "linear"), rule=rule, epsilon=TINY)
    theirs = LRP(model).attribute(images, target=labels)
    torch.testing.assert_close(at_input, theirs.detach(), rtol=1e-5, atol=1e-8)
    for name, relevance in found.items() if rule == "epsilon" else ():  # Captum's z+ changes the outputs of layers
        theirs = LayerLRP(model, model.get_submodule(name)).attribute(images, target=labels)
        torch.testing.assert_close(relevance, theirs.detach(), rtol=1e-5, atol=1e-8)


def _exact(model: nn.Module) -> nn.Module:
    """Return a trained network in double precision, without the epsilon that zennit's merge would apply twice."""
    for module in worn(model).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return model.double().eval()


def _resnet(block: type[BasicBlock | Bottleneck]) -> nn.Module:
    """Return torchvision's ResNet with one block for each width."""
    return _exact(models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES))


def _zennits(composite: Any, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the relevance at the input by zennit."""
    with Gradient(model, composite) as attributor:
        found: Tensor = attributor(images, model(images).detach() * F.one_hot(labels, CLASSES))[1]
    return found


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_relevance_agrees_with_zennit(rule: str) -> None:
    """zennit's canoniser and composites agree on torchvision's ResNet (epsilon) and a plain stack (EpsilonPlus)."""
    if rule == "epsilon":
        model = _resnet(BasicBlock)
        layers = [*layer_map_base(TINY), (Linear, Epsilon(epsilon=TINY))]
        composite = LayerMapComposite(layers, canonizers=[ResNetCanonizer()])
    else:
        model = _exact(
            nn.Sequential(
                *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2)),
                *(nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(288, 7), nn.ReLU()),
                nn.Linear(7, CLASSES),
            )
        )
        composite = EpsilonPlus(epsilon=TINY, stabilizer=TINY, canonizers=[ResNetCanonizer()])
    images, labels = torch.randn(2, 3, 32, 32).double(), torch.arange(2)
    _, at_input, _ = relevances(model, images, labels, rule=rule, epsilon=TINY)
    torch.testing.assert_close(at_input, _zennits(composite, model, images, labels), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_relevance_of_a_resnet_differs_from_zennits_by_its_negative_units_alone(block: Any, monkeypatch: Any) -> None:
    """With zennit's own z+ the results agree; the signed rule moves them by a few percent of the largest relevance.

    The last BatchNorm of a residual branch is not followed by a ReLU, so that a unit below 0 takes part in the sum and
    receives relevance. z+ has no positive contributions to divide it by, and loses it; ``SignedPlus`` redistributes it.
    """
    model = _resnet(block)
    images, labels = torch.randn(1, 3, 32, 32).double(), torch.arange(1)
    _, signed, _ = relevances(model, images, labels, epsilon=TINY)
    monkeypatch.setitem(rules.RULES, "epsilon_plus", lambda s: (ZPlus(stabilizer=s), Epsilon(epsilon=s)))
    _, unsigned, _ = relevances(model, images, labels, epsilon=TINY)
    composite = EpsilonPlus(epsilon=TINY, stabilizer=TINY, canonizers=[ResNetCanonizer()])
    theirs = _zennits(composite, model, images, labels)
    torch.testing.assert_close(unsigned, theirs, rtol=1e-5, atol=1e-10)
    difference = ((signed - theirs).abs().max() / theirs.abs().max()).item()
    assert 1e-3 < difference < 0.2


def test_unknown_rules_are_refused() -> None:
    """An unknown rule raises ValueError, which lists the rules."""
    model, (images, labels) = plain(), batch()
    with pytest.raises(ValueError, match="epsilon_plus, epsilon, z_plus"):
        propagate(model, places_of(model, images), images, labels, {}.__setitem__, rule="gamma")
