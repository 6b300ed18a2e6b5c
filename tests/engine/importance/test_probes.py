"""Probes match explicit computations and leave no trace."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from networks import Network
from probe_models import CLASSES, Functional, Tokens, batch, places_of, worn
from residual_net import assert_same, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from dropopt.config import ConfigError
from dropopt.engine.importance.passes import finite
from dropopt.engine.importance.probes import PROBES, lrp, propagate
from dropopt.engine.places.place import Place
from dropopt.engine.places.record import copied

# -- gradient


@pytest.mark.parametrize("axis", [1, -1])
def test_gradient_matches_finite_differences(axis: int) -> None:
    """The score is |dY/dn| averaged over batch and positions, computed neuron by neuron in float64."""
    if axis == 1:
        model: nn.Module = worn(Functional(inplace=False)).double()
        model.act = nn.Softplus(beta=3)  # smooth, so that differences converge
        model.act.inplace = False
        images, labels = batch(3, 4)
        images = images.double()
        places = places_of(model, images, ("norm2", "stem"))
    else:
        model, images, labels = Tokens().double(), torch.randint(11, (3, 4)), torch.tensor([0, 3, 1])
        places = places_of(model, images, ("norm", "mix"))
    scores = PROBES["gradient"](model.eval(), places, images, labels)
    for name, place in places.items():
        slow = _differences(model, place, images, labels)
        torch.testing.assert_close(scores[name], slow.float(), rtol=1e-4, atol=1e-7)


def _differences(model: nn.Module, place: Place, images: Tensor, labels: Tensor, step: float = 1e-6) -> Tensor:
    index: tuple[int, ...] = ()
    shape: list[torch.Size] = []

    def nudge(by: float) -> Tensor:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            shape[:] = [output.shape[1:]]
            output = output.clone()
            if index:
                output[(slice(None), *index)] += by
            return output

        handle = place.module.register_forward_hook(hook)
        with torch.no_grad():
            logits = model(images).gather(1, labels.unsqueeze(1)).squeeze(1)
        handle.remove()
        return logits

    nudge(0.0)
    total = torch.zeros(place.features, dtype=torch.float64)
    for index in np.ndindex(*shape[0]):
        slope = (nudge(step) - nudge(-step)) / (2 * step)
        total[index[0 if place.axis == 1 else -1]] += slope.abs().mean()
    return total * place.features / shape[0].numel()


# -- targets other than the classes of whole samples


@pytest.mark.parametrize("probe", ["gradient", "lrp"])
@pytest.mark.parametrize("dense", [False, True])
def test_targets_choose_the_outputs_that_are_explained(probe: str, dense: bool) -> None:
    """Class numbers and one-hot vectors explain a logit, those of mixup logits in their shares, other targets all.

    A network with this logit, or with the mean of the logits, as its only output explains the same, also of maps.
    """
    head = [nn.Conv2d(8, CLASSES, 1)] if dense else [nn.Flatten(), nn.Linear(8 * 36, CLASSES)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head).eval()
    images, shape = torch.randn(4, 3, 8, 8), (4, 6, 6) if dense else (4,)
    places = places_of(model, images, ("1",))

    def explained(targets: Tensor, output: Any = lambda logits: logits) -> Tensor:
        return PROBES[probe](Network(lambda self, x: output(model(x)), model=model), places, images, targets)["1"]

    one_output = torch.zeros(4, 1, 6, 6) if dense else torch.zeros(4)
    one = explained(one_output, lambda logits: logits[:, [2]])
    torch.testing.assert_close(one, explained(torch.full(shape, 2)))
    assert one.std() > 0
    one_hot = F.one_hot(labels := torch.randint(CLASSES, shape), CLASSES).movedim(-1, 1)
    for targets in (one_hot, one_hot.half()):
        torch.testing.assert_close(explained(targets), explained(labels))
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    mean = explained(torch.zeros(shape), lambda logits: (logits * mixed).sum(1))
    torch.testing.assert_close(explained(mixed), mean)
    every = explained(torch.zeros(mixed.shape))
    assert not any(torch.allclose(*pair) for pair in ((mean, explained(labels)), (mean, every), (one, every)))
    for targets in (2 * mixed, mixed.flip(1) - mixed):  # no sum of 1
        torch.testing.assert_close(explained(targets), every)


# -- every probe, on any network


def _vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=CLASSES
    )


def _case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "dense":
        model: nn.Module = nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(True), nn.Linear(9, CLASSES))
        images, labels = torch.randn(4, 7), torch.arange(4)
    elif name == "tokens":
        model, images, labels = Tokens(), torch.randint(11, (4, 6)), torch.arange(4)
    elif name == "transformer":
        model, (images, labels) = _vit(), batch(4, 32, 3)
        nn.init.normal_(model.heads.head.weight)
    else:
        model, (images, labels) = Functional(), batch()
    return worn(model), images, labels


def _half_trained(model: nn.Module) -> nn.Module:
    """Set mixed training flags, frozen parameters, gradients on some parameters, and a hook of the user."""
    model.train()
    for i, (module, parameter) in enumerate(zip(model.modules(), model.parameters(), strict=False)):
        module.training = i % 3 > 0
        parameter.requires_grad_(i % 4 > 0)
        parameter.grad = torch.ones_like(parameter) if i % 2 else None
    next(model.children()).register_forward_hook(lambda *_: None)
    return model


class Noisy(nn.Module):
    """Draws numbers and updates a statistic, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """Dropout in every mode."""
        self.calls += torch.rand(3)
        return F.dropout(x, 0.1, training=True)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", ["functional", "dense", "tokens", "transformer"])
def test_a_probe_scores_every_feature_and_leaves_no_trace(name: str, probe: str) -> None:
    """Scores of maps, vectors, tokens and transformers are finite, non-negative and not constant.

    Weights, statistics, gradients, flags, hooks, attributes, identities and the random state do not change.
    """
    model, images, labels = _case(name)
    model = _half_trained(nn.Sequential(model, Noisy()))
    places, given = places_of(model, images), images.clone()
    before = snapshot(model)
    scores = PROBES[probe](model, places, images, labels)
    assert_same(before, snapshot(model))
    assert torch.equal(images, given)
    assert images.grad is None
    assert scores.keys() == places.keys()
    for key, score in scores.items():
        assert score.shape == (places[key].features,)
        assert score.dtype == torch.float32
        assert score.isfinite().all()
        assert score.min() >= 0
        steers = probe == "lrp" and key == "0.gate"  # all relevance goes to the signal of the gate
        assert bool(score.max() > score.min()) is not steers, key


class _Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError("backward failed")


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("when", ["forward", "backward", "labels"])
def test_a_probe_that_fails_leaves_no_trace_either(when: str, probe: str) -> None:
    """The same holds if the forward pass, the backward pass or a check of the labels raises."""

    class Breaks(nn.Module):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            if self.broken and when == "forward":
                raise RuntimeError("forward failed")
            return _Fails.apply(x) if when == "backward" else x

    model, images, labels = _case("functional")
    model.act = nn.Sequential(Noisy(), Breaks(), nn.ReLU(True))
    model.act.inplace = True
    places = places_of(_half_trained(model), images)
    model.act[1].broken = True
    before = snapshot(model)
    fails = probe != "composite" or when == "forward"  # composite needs neither labels nor a backward pass
    with pytest.raises((RuntimeError, ValueError), match=r"failed|class numbers") if fails else nullcontext():
        PROBES[probe](model, places, images, labels[:2] if when == "labels" else labels)
    assert_same(before, snapshot(model))


#: What a pass may run in, and what may have been done to the network before it.
AROUND: dict[str, Any] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "frozen": lambda model: model.requires_grad_(False),
    "training": lambda model: model.train(),
    "compiled": lambda model: model.compile(backend="eager"),
    "second_time": lambda model: None,
}
OTHERS = {
    "out_of_place": {"inplace": False},
    "checkpoint": {"recompute": False},
    "reentrant": {"recompute": True},
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoints under no_grad
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("by", [*AROUND, *CHANGES, *OTHERS])
def test_scores_do_not_depend_on_the_context(by: str, probe: str) -> None:
    """Grad mode, autocast, layout, frozen weights, training mode, compilation, in-place operations, checkpointing."""
    model, images, labels = _case("functional")
    places = places_of(model.eval(), images)
    expected = PROBES[probe](model, places, images, labels)
    if by in OTHERS:
        other = Functional(**OTHERS[by]).eval()
        other.load_state_dict(model.state_dict())
        model = other
    elif by in CHANGES:
        CHANGES[by](model)
    if by == "channels_last":
        images = images.to(memory_format=torch.channels_last)
    places = {name: replace(place, module=model.get_submodule(name)) for name, place in places.items()}
    refused = by == "reentrant" and probe == "lrp"
    with (
        AROUND.get(by, nullcontext)(),
        pytest.raises(ConfigError, match="use_reentrant=True") if refused else nullcontext(),
    ):
        scores = PROBES[probe](model, places, images, labels)
        for name in expected:
            torch.testing.assert_close(scores[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("probe", ["gradient", "lrp"])
def test_a_place_beside_the_logits_scores_zero(probe: str) -> None:
    """A layer whose output the logits do not depend on has one zero for each feature."""

    def beside(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.unread(x)
        return self.head(x.mean((2, 3)))

    parts = {"conv": nn.Conv2d(2, 4, 3), "unread": nn.Conv2d(4, 7, 1), "head": nn.Linear(4, CLASSES)}
    model, (images, labels) = Network(beside, **parts), batch()
    scores = PROBES[probe](model, places_of(model, images, "conv"), images, labels)
    assert torch.equal(scores["unread"], torch.zeros(7))
    assert scores["conv"].min() > 0


def test_lrp_scores_by_the_relevance_of_the_rule() -> None:
    """|sum over positions of relevance|, averaged over the batch. Each rule, and epsilon, gives other relevance."""
    model, (images, labels) = worn(Functional()), batch()
    places = places_of(model, images)
    expected = []
    for options in ({}, {"rule": "epsilon"}, {"rule": "epsilon", "epsilon": 1.0}, {"rule": "z_plus"}):
        found = {name: torch.zeros(1, place.features) for name, place in places.items()}  # nothing flows to the gate
        propagate(model, places, images, labels, found.__setitem__, **options)
        expected.append({name: r.unsqueeze(-1).flatten(2).sum(2).abs().mean(0) for name, r in found.items()})
    for name, score in lrp(model, places, images, labels).items():
        torch.testing.assert_close(score, expected[0][name])
    for one, other in itertools.combinations(expected, 2):
        assert (one["norm1"] - other["norm1"]).abs().max() > 0.01 * one["norm1"].max()


def test_inputs_of_a_probe_are_copies_in_the_type_of_the_network() -> None:
    """Floats take the type of its weights, and require a gradient unless none is computed; integers stay."""
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2)).double()
    model[0].weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.int64), requires_grad=False)
    given = {"x": torch.rand(2, 4), "index": torch.tensor([1, 2])}
    for network, dtype in ((model, torch.float64), (nn.ReLU(), torch.float32)):
        copies = copied(network, given)
        assert (copies["x"].dtype, copies["index"].dtype) == (dtype, torch.int64)
        assert (copies["x"].requires_grad, copies["index"].requires_grad) == (True, False)
        assert not copies["x"].is_leaf  # operations in place are allowed
        with torch.no_grad():
            assert not copied(network, given)["x"].requires_grad
        for name, part in given.items():
            torch.testing.assert_close(copies[name].detach(), part.to(copies[name].dtype))
            assert copies[name].data_ptr() != part.data_ptr()


def test_scores_that_are_no_importances_are_zero() -> None:
    """Overflows in both directions, undefined and negative values become 0; the others stay."""
    scores = finite({"layer": torch.tensor([torch.inf, -torch.inf, torch.nan, -1.0, 0.5])})
    assert scores["layer"].tolist() == [0, 0, 0, 0, 0.5]


def test_class_numbers_of_a_floating_type_are_reported() -> None:
    """Targets that are whole numbers below the number of outputs may be classes; those of a regression are not."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    places, images = places_of(model, torch.rand(4, 1, 4, 4), "conv"), torch.rand(4, 1, 4, 4)
    message = r"^the labels of a probe are whole numbers of type torch.float32, .* give labels.long\(\)$"
    with pytest.warns(UserWarning, match=message):
        lrp(model, places, images, torch.tensor([0.0, 2.0, 1.0, 0.0]))
    for targets in ([0.0, 3.0, 1.0, 0.0], [0.0, 0.5, 1.0, 2.0], [0.0, -1.0, 1.0, 2.0], [1.0] * 4):
        lrp(model, places, images, torch.tensor(targets))
