"""Relevance matches explicit redistribution, zennit and Captum, and is conserved in any network."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from networks import Network
from probe_models import CLASSES, Functional, batch, places_of, plain, worn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.rules import Epsilon, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear

from dropopt.engine.importance import probes
from dropopt.engine.importance.lrp import rules
from dropopt.engine.importance.probes import PROBES, propagate
from dropopt.engine.places.place import Place

TINY = 1e-12  # epsilon for the limit epsilon -> 0


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


def _explicit(z: Tensor, a: Tensor, bias: Tensor, relevance: Tensor, positive: bool) -> Tensor:
    """Return R_i = sum over k of z_ik / (sum over l of z_lk + b_k) R_k, contribution by contribution."""
    out = torch.zeros_like(a)
    for k in range(len(relevance)):
        parts = [float(z[k, i] * a[i]) for i in range(len(a))]
        b = float(bias[k])
        if positive:  # contributions with the sign of the unit's output
            sign = 1.0 if sum(parts) + b >= 0 else -1.0
            parts, b = [max(sign * c, 0.0) for c in parts], max(sign * b, 0.0)
        total = sum(parts) + b
        if total != 0:
            for i, c in enumerate(parts):
                out[i] += c / total * relevance[k]
    return out


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "z_plus"])
def test_relevance_matches_explicit_redistribution(rule: str) -> None:
    """Through two dense layers, a mean, a residual sum, two BatchNorms and two convolutions, in float64 loops."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm1 = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.two, self.norm2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
            self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm1(self.one(x)))
            return self.head(F.silu(self.hidden((x + self.norm2(self.two(x))).mean((2, 3)))))

    model = worn(Block()).double().eval().requires_grad_(False)
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
        r = _explicit(model.head.weight, F.silu(hidden), model.head.bias, r, dense)
        torch.testing.assert_close(found["hidden"][n], r)
        r = _explicit(model.hidden.weight, pooled, model.hidden.bias, r, dense)
        mean = torch.eye(3, dtype=torch.float64).repeat_interleave(16, 1) / 16
        r = _explicit(mean, (x + y).flatten(), torch.zeros(3), r, False)
        share = (x / (x + y)).flatten()
        torch.testing.assert_close(found["norm2"][n].flatten(), r * (1 - share))
        shift = second(torch.zeros_like(x)).flatten()
        r = r * share + _explicit(_matrix(second, (3, 4, 4)), x.flatten(), shift, r * (1 - share), conv)
        torch.testing.assert_close(found["norm1"][n].flatten(), r)
        shift = first(torch.zeros_like(image[None])).flatten()
        r = _explicit(_matrix(first, (2, 4, 4)), image.flatten(), shift, r, conv)
        torch.testing.assert_close(at_input[n].flatten(), r)


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
@pytest.mark.parametrize("name", ["functional", "resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121"])
def test_relevance_is_conserved_without_biases(name: str, rule: str) -> None:
    """The relevance at the input sums to the logit of each sample, through residual sums, gates and concatenations."""
    if name == "functional":
        model: nn.Module = Functional()
        images, labels = batch()
    else:
        model = getattr(torchvision.models, name)(num_classes=CLASSES)
        images, labels = batch(2, 32, 3)
    model = worn(model, bias=False).double().eval()
    _, at_input, logits = relevances(model, images.double(), labels, rule=rule, epsilon=TINY)
    torch.testing.assert_close(at_input.flatten(1).sum(1), logits, rtol=1e-5, atol=0)


def test_relevance_is_not_lost_to_small_activations() -> None:
    """Epsilon is relative: a network with activations scaled by 1e-8 has scaled relevance."""
    model, (images, labels) = plain(bias=False), batch()
    small = copy.deepcopy(model)
    small[0].weight.data *= 1e-8
    places, small_places = places_of(model, images), places_of(small, images)
    normal, tiny = PROBES["lrp"](model, places, images, labels), PROBES["lrp"](small, small_places, images, labels)
    for name in places:
        torch.testing.assert_close(tiny[name] * 1e8, normal[name], rtol=1e-3, atol=1e-6)


def test_z_plus_gives_no_negative_relevance() -> None:
    """Under z+, relevance has the sign of the logit everywhere, also with biases and BatchNorm."""
    model = worn(
        nn.Sequential(
            *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(True), nn.AvgPool2d(2), nn.Conv2d(6, 4, 2), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(16, CLASSES)),
        )
    ).double()
    images, labels = batch(16)
    found, at_input, logits = relevances(model.eval(), images.double(), labels, ("conv", "norm"), rule="z_plus")
    assert (logits < 0).any()
    assert (logits > 0).any()
    for relevance in (*found.values(), at_input):
        assert (relevance * logits.sign().view(-1, 1, 1, 1)).min() >= 0


def test_epsilon_rule_is_gradient_times_input_on_a_relu_network_without_biases() -> None:
    """R = n dY/dn at every place in the limit, which Captum's LayerGradientXActivation confirms."""
    from captum.attr import LayerGradientXActivation

    model, (images, labels) = plain(bias=False).double(), batch()
    images = images.double()
    found, at_input, _ = relevances(model, images, labels, ("conv", "linear"), rule="epsilon", epsilon=TINY)
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).gather(1, labels.unsqueeze(1)).sum(), leaf)
    torch.testing.assert_close(at_input, images * slope)
    for name, relevance in found.items():
        captum = LayerGradientXActivation(model, model.get_submodule(name)).attribute(images, target=labels)
        torch.testing.assert_close(relevance, captum.detach())


class Flat(nn.Module):
    """``plain`` without the flatten module, for which Captum has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(m for m in plain() if not isinstance(m, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for layer in self.layers:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


@pytest.mark.filterwarnings("ignore")  # Captum warns about the hooks that it sets
@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_relevance_agrees_with_captum(rule: str) -> None:
    """With biases: Captum's epsilon rule at the input and every layer, and its alpha-1-beta-0 rule, which is z+."""
    from captum.attr import LRP, LayerLRP
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

    model, (images, labels) = Flat().double(), batch()
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


def _zennits(composite: Any, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the relevance at the input by zennit."""
    with Gradient(model, composite) as attributor:
        found: Tensor = attributor(images, model(images).detach() * F.one_hot(labels, CLASSES))[1]
    return found


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_relevance_agrees_with_zennit(rule: str) -> None:
    """zennit's canoniser and composites agree on torchvision's ResNet (epsilon) and a plain stack (EpsilonPlus)."""
    if rule == "epsilon":
        model = _exact(torchvision.models.resnet18(num_classes=CLASSES))
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


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_relevance_of_a_resnet_differs_from_zennits_by_its_negative_units_alone(name: str, monkeypatch: Any) -> None:
    """With zennit's own z+ the results agree; the signed rule moves them by a few percent of the largest relevance.

    The last BatchNorm of a residual branch is not followed by a ReLU, so that a unit below 0 takes part in the sum and
    receives relevance. z+ has no positive contributions to divide it by, and loses it; ``SignedPlus`` redistributes it.
    """
    model = _exact(getattr(torchvision.models, name)(num_classes=CLASSES))
    images, labels = torch.randn(1, 3, 32, 32).double(), torch.arange(1)
    _, signed, _ = relevances(model, images, labels, epsilon=TINY)
    monkeypatch.setitem(rules.RULES, "epsilon_plus", lambda s: (ZPlus(stabilizer=s), Epsilon(epsilon=s)))
    _, unsigned, _ = relevances(model, images, labels, epsilon=TINY)
    composite = EpsilonPlus(epsilon=TINY, stabilizer=TINY, canonizers=[ResNetCanonizer()])
    theirs = _zennits(composite, model, images, labels)
    torch.testing.assert_close(unsigned, theirs, rtol=1e-5, atol=1e-10)
    difference = ((signed - theirs).abs().max() / theirs.abs().max()).item()
    assert 1e-3 < difference < 0.2


def test_lrp_scores_are_absolute_relevance_summed_over_positions() -> None:
    """The score is the mean over the batch of |sum over positions of relevance|, with the default rule."""
    model, (images, labels) = worn(Functional()), batch()
    places = places_of(model, images)
    found, _, _ = relevances(model, images, labels, tuple(places))
    for name, score in PROBES["lrp"](model, places, images, labels).items():
        relevance = found.get(name, torch.zeros(1, places[name].features, 1))  # nothing flows to a gate
        torch.testing.assert_close(score, relevance.unsqueeze(-1).flatten(2).sum(2).abs().mean(0))


def test_unknown_rules_are_refused() -> None:
    """An unknown rule raises ValueError, which lists the rules."""
    model, (images, labels) = plain(), batch()
    with pytest.raises(ValueError, match="epsilon_plus, epsilon, z_plus"):
        probes.lrp(model, places_of(model, images), images, labels, rule="gamma")


OPERATIONS = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "explicit_attention": lambda x: torch.softmax(x @ x.transpose(-1, -2), -1) @ x,
    "kernel_product": lambda x: (x @ x) / x.norm(),
    "in_place": lambda x: F.relu_(x.clone().mul_(2).add_(x).sub_(1)),
    "in_place_for_its_effect": lambda x: [y := x.clone(), F.relu_(y), y.add_(x), y.mul_(2)][0],
    "checkpointed": lambda x: checkpoint(lambda t: F.max_pool2d(F.gelu(t), 3, 1, 1), x, use_reentrant=False),
    "slices": lambda x: torch.cat([x[:, 2:], F.pad(x[:, :2, 1:], (0, 0, 1, 0))], 1).roll(1, 2),
    "upsampled": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_intercepted_operations_keep_their_values(name: str) -> None:
    """Interception changes no output, and relevance is finite, where several operations meet."""

    layers = {"conv": nn.Conv2d(2, 4, 3, padding=1), "head": nn.Conv2d(4, CLASSES, 6)}
    model = Network(lambda self, x: self.head(OPERATIONS[name](self.conv(x))).flatten(1), **layers)
    images, labels = batch(4, 6)
    found, at_input, logits = relevances(model, images, labels, "conv")
    expected = model(images).gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(logits, expected.detach())
    assert found["conv"].isfinite().all()
    assert found["conv"].abs().sum() > 0
    assert at_input.isfinite().all()


@pytest.mark.parametrize(
    "gate", [torch.sigmoid, lambda g: 1 + 2 * torch.sigmoid(g).clamp(0.1), lambda g: F.dropout(g.softmax(1))]
)
def test_a_gate_takes_no_relevance_from_its_signal(gate: Any) -> None:
    """All relevance of signal times gate goes to the signal, also if the gate is scaled, shifted or comes first."""

    layers = {"signal": nn.Linear(3, 4), "steer": nn.Linear(3, 4), "head": nn.Linear(4, CLASSES, bias=False)}
    model = Network(lambda self, x: self.head(gate(self.steer(x.flatten(1))) * self.signal(x.flatten(1))), **layers)
    images = torch.randn(4, 3, 1, 1)
    found, _, logits = relevances(model, images, torch.arange(4), ("signal", "steer"), epsilon=TINY)
    assert found.get("steer", torch.zeros(1)).abs().max() == 0
    torch.testing.assert_close(found["signal"].sum(1), logits, rtol=1e-4, atol=1e-6)
