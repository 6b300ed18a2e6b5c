"""Feature importance ``composite``: the mean of four statistics of a feature, from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from dropopt import equations
from dropopt.engine.importance.passes import feature_maps, finite, outputs_at, undisturbed
from dropopt.engine.places.place import Example, Place
from dropopt.engine.places.record import copied
from dropopt.inputs import run_model

#: Correlations that are closer to 1 or -1 differ from it by rounding.
_LEAST_UNIQUE = 1e-4
#: Largest number of responses per feature, evenly spaced over batch and positions, that correlations are estimated on.
_RESPONSES = 4096


def composite(model: nn.Module, places: Mapping[str, Place], images: Example, labels: Tensor) -> dict[str, Tensor]:
    """Return the mean of four parts, (C,) in [0, 1]; each part is normalised over its layer.

    - Activation: mean |a| over batch and positions.
    - Variance: variance over the batch of the response averaged over positions.
    - Uniqueness: 1 - |Pearson correlation| with the most similar feature of the layer, so that redundant features are
      spared less. A constant map has 0.
    - Kernel norm: L2 norm of the weights that make the feature, after the normalisation that follows them. Where no
      layer is known to make it, this part is left out.
    """
    scores: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        scores[name] = _combined(feature_maps(output, places[name]), places[name])

    with undisturbed(model), torch.no_grad(), outputs_at(places, take):
        run_model(model, copied(model, images))
    return finite(scores)


def _combined(maps: Tensor, place: Place) -> Tensor:
    parts = [maps.abs().mean((0, 2)), response_variance(maps), uniqueness(maps)]
    if (kernel := kernel_norm(place)) is not None:
        parts.append(kernel)
    score, share = torch.zeros_like(parts[0]), 1 / len(parts)
    for part in parts:
        score += share * cast("Tensor", equations.normalised(part.nan_to_num(0.0, 0.0, 0.0)))
    return score


def response_variance(maps: Tensor) -> Tensor:
    """Return the variance over the batch of each feature's response, its mean over positions of (N, C, P), (C,).

    It is 0 where nothing but rounding varies, as after InstanceNorm, which makes all responses equal: the parts of the
    score are normalised, which would make differences of features out of it.
    """
    variance = maps.mean(2).var(0, correction=0)
    return variance.masked_fill(variance <= 1e-12 * maps.square().mean((0, 2)), 0.0)


def uniqueness(maps: Tensor) -> Tensor:
    """Return 1 - |correlation| of each feature's responses (N, C, P) with those of the most similar feature, (C,).

    It is 0 where nothing but rounding distinguishes the two.
    """
    responses = maps.transpose(0, 1).flatten(1)
    responses = responses[:, :: -(-responses.shape[1] // _RESPONSES)]
    centred = responses - responses.mean(1, keepdim=True)
    length: Tensor = centred.norm(dim=1)
    constant: Tensor = length <= 1e-6 * responses.norm(dim=1)  # nothing left but rounding
    unit = centred / length.masked_fill(constant, 1.0).unsqueeze(1)
    similarity = (unit @ unit.T).abs().fill_diagonal_(0)
    unique = 1 - similarity.amax(1)
    return unique.masked_fill(constant | (unique < _LEAST_UNIQUE), 0.0)


def kernel_norm(place: Place) -> Tensor | None:
    """Return the L2 norm (C,) of each feature's weights, times the scale of a norm after them; None without weights."""
    norm: Tensor | None = None
    for layer in place.weighted:
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        rows: Tensor = weight.detach().float()
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # (in, out per group, ...)
            rows = torch.unflatten(rows, 0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        rows = rows.flatten(1).norm(dim=1) if rows.ndim > 1 else rows.abs()
        variance = getattr(layer, "running_var", None)
        if isinstance(variance, Tensor):
            rows = rows * (variance.float() + float(getattr(layer, "eps", 0.0))).rsqrt()
        if rows.numel() == place.features:
            norm = rows if norm is None else norm * rows
    return norm
