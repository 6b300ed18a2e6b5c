"""Importance "composite" matches explicit statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probe_models import Functional, batch, places_of, plain, worn
from torch import Tensor, nn

from dropopt.engine.importance import composite
from dropopt.engine.importance.probes import PROBES
from dropopt.engine.places.place import Place


def test_composite_matches_explicit_statistics() -> None:
    """The score is the mean of four normalised parts, computed by loops in float64."""
    model = worn(Functional()).eval().requires_grad_(False)
    images, labels = batch(5)
    seen: dict[str, Tensor] = {}
    places = places_of(model, images, ("norm1", "deep"))
    for name, place in places.items():
        place.module.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out.detach().clone()))
    scores = PROBES["composite"](model, places, images, labels)
    scale = model.norm1.weight.abs() / (model.norm1.running_var + 1e-5).sqrt()
    kernels = {
        "norm1": [float(model.stem.weight[c].norm() * scale[c]) for c in range(6)],
        "deep": [float(model.deep.weight[c].double().square().sum().sqrt()) for c in range(4)],
    }
    for name, place in places.items():
        maps = seen[name].double().numpy()
        rows = [maps[:, c].ravel() for c in range(place.features)]
        alike = np.abs(np.corrcoef(rows)) - np.eye(len(rows))
        parts = [
            [np.abs(row).mean() for row in rows],
            [maps[:, c].mean((1, 2)).var() for c in range(place.features)],
            [1 - max(row) for row in alike],
            kernels[name],
        ]
        slow = sum((np.array(p) - min(p)) / (max(p) - min(p)) for p in parts) / 4
        np.testing.assert_allclose(scores[name].numpy(), slow, rtol=1e-4, atol=1e-5)


def test_a_map_counts_as_constant_if_only_rounding_varies() -> None:
    """A constant whose mean is rounded has no uniqueness, while a small variation around a large mean has."""
    maps = torch.randn(3, 3, 49, generator=torch.Generator().manual_seed(1))
    maps[:, 0] = 0.1
    maps[:, 1] = 1 + 1e-4 * maps[:, 1]
    assert (maps[:, 0] - maps[:, 0].mean()).norm() > 0  # rounding alone
    unique = composite.uniqueness(maps)
    assert unique[0] == 0
    assert unique[1:].min() > 0.5


def test_what_differs_by_rounding_alone_has_equal_scores() -> None:
    """Responses after InstanceNorm do not vary, and features of one input are copies: neither part ranks features."""
    maps = torch.randn(8, 5, 84)
    maps = 0.7 + (maps - maps.mean(2, keepdim=True)) / maps.std(2, keepdim=True)
    assert (maps.mean(2).var(0) > 0).any()  # rounding alone
    assert (composite.response_variance(maps) == 0).all()
    varied = maps + 1e-4 * torch.randn(8, 5, 1)
    torch.testing.assert_close(
        composite.response_variance(varied), varied.double().mean(2).var(0, correction=0).float()
    )
    copies = torch.randn(16, 1, 9) * torch.randn(5, 1) + torch.randn(5, 1)
    assert (composite.uniqueness(copies) == 0).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_kernel_norms_follow_output_features(groups: int) -> None:
    """The norm of each output feature's weights, for plain, grouped and transposed convolutions and dense layers."""
    for layer in (nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(4, 6, 3, groups=groups), nn.Linear(4, 6)):
        layer.requires_grad_(False)
        shape = (4,) if isinstance(layer, nn.Linear) else (4, 5, 5)
        zero, squares = layer(torch.zeros(1, *shape)), torch.zeros(6)
        for i in range(4):  # the response to an impulse in the middle of an input is the taps of its kernels
            impulse = torch.zeros(1, *shape)
            impulse[(0, i, *[2] * (len(shape) - 1))] = 1
            squares += (layer(impulse) - zero)[0].reshape(6, -1).square().sum(1)
        norm = composite.kernel_norm(Place("x", layer, 1, 6, 4, 1.0, (layer,)))
        torch.testing.assert_close(norm, squares.sqrt(), rtol=1e-4, atol=1e-6)


class OwnNorm(nn.Module):
    """A normalisation of another library, without an epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.running_var = nn.Parameter(-2 * torch.ones(6)), torch.full((6,), 4.0)


def test_kernel_norms_include_the_norm_after_them() -> None:
    """They are scaled by its weight, and by its running deviation if it has one; other sizes do not count."""
    conv = nn.Conv2d(4, 6, 3).requires_grad_(False)
    rows = torch.stack([conv.weight[k].square().sum().sqrt() for k in range(6)])
    batch_norm, group_norm = nn.BatchNorm2d(6, eps=0.5), nn.GroupNorm(2, 6)
    nn.init.normal_(batch_norm.weight)
    nn.init.normal_(group_norm.weight)
    batch_norm.running_var.uniform_(0.5, 2)
    scale = batch_norm.weight.abs() / (batch_norm.running_var + 0.5).sqrt()
    for layers, norm in (
        ((conv, batch_norm), rows * scale),
        ((conv, group_norm), rows * group_norm.weight.abs()),
        ((conv, OwnNorm()), rows),  # 2 / sqrt(4)
        ((nn.BatchNorm2d(6, affine=False), conv), rows),
        ((conv, nn.LayerNorm(5)), rows),
        ((nn.Linear(3, 5), conv), rows),
        ((batch_norm,), scale),
        ((nn.Linear(3, 5),), None),
        ((), None),
    ):
        found = composite.kernel_norm(Place("x", conv, 1, 6, 4, 1.0, layers))
        assert (found is None) is (norm is None)
        if norm is not None:
            torch.testing.assert_close(found, norm)


def test_correlations_use_responses_at_even_distances() -> None:
    """At most 4,096 responses of each feature, over batch and positions; correlations of either sign count."""
    maps = torch.randn(3, 4, 2000, generator=torch.Generator().manual_seed(1))
    maps[:, 1] += maps[:, 0]
    maps[:, 2] -= 2 * maps[:, 3]
    rows = maps.double().transpose(0, 1).reshape(4, -1)[:, ::2]  # 6,000 / 4,096, rounded up
    alike = np.abs(np.corrcoef(rows.numpy())) - np.eye(4)
    np.testing.assert_allclose(composite.uniqueness(maps).numpy(), 1 - alike.max(0), rtol=1e-5)
    copies = maps[:, :1].expand(-1, 50, -1) * torch.arange(1, 51).view(-1, 1)
    assert composite.uniqueness(copies).min() >= 0


def test_composite_takes_a_single_image_no_layer_and_infinite_maps() -> None:
    """One image has no variance, no layer no kernel, which is left out; parts that are not finite count as 0."""
    model, (images, labels) = plain(), batch(1)
    x = torch.randn(1, 4, 8, 8)
    model[1].register_forward_hook(lambda *_: x)
    place = {"x": Place("x", model[1], 1, 4, 4, 0.5, ())}

    def normalised(values: Tensor) -> Tensor:
        return (values - values.min()) / (values.max() - values.min())

    expected = (normalised(x.abs().mean((0, 2, 3))) + 0.5 + normalised(composite.uniqueness(x.flatten(2)))) / 3
    torch.testing.assert_close(PROBES["composite"](model, place, images, labels)["x"], expected)
    x[0, 2, 0, 0] = torch.inf
    score = PROBES["composite"](model, place, images, labels)["x"]
    activations = x.abs().mean((0, 2, 3)).nan_to_num(posinf=0.0)
    torch.testing.assert_close(score, (normalised(activations) + 0.5 + 0.5) / 3)  # no correlation is finite
