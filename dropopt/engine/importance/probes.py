"""Probes: feature importance that needs passes of its own on a batch of training data. ``PROBES`` lists them by name.

Each probe returns one non-negative score per feature and place, (C,) in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dropopt.config import Importance
from dropopt.engine.importance.composite import composite
from dropopt.engine.importance.lrp import EPSILON, RULE
from dropopt.engine.importance.passes import Take, explained, feature_maps, finite, gradients_at, undisturbed
from dropopt.engine.places.place import Example, Place

Probe = Callable[[nn.Module, Mapping[str, Place], Example, Tensor], dict[str, Tensor]]


def gradient(model: nn.Module, places: Mapping[str, Place], images: Example, labels: Tensor) -> dict[str, Tensor]:
    """Return |dY/dn| of each neuron n, averaged over batch and positions, (C,); Y is the logit of the true class.

    One backward pass serves all places and samples: in eval mode samples do not interact, so the gradient of the sum
    of their logits is the gradient of each. Without classes, Y is the sum of a sample's outputs. From "Feature
    Importance".
    """
    scores = {name: torch.zeros(place.features, device="cpu") for name, place in places.items()}

    def take(name: str, gradient: Tensor) -> None:
        scores[name] = feature_maps(gradient, places[name]).abs().mean((0, 2))

    with undisturbed(model), gradients_at(places, take):
        torch.autograd.backward(explained(model, images, labels).sum())
    return finite(scores)


def lrp(model: nn.Module, places: Mapping[str, Place], images: Example, labels: Tensor) -> dict[str, Tensor]:
    """Return |relevance| of each feature for the true class, summed over positions, averaged over the batch, (C,).

    The logit, or without classes each output, is redistributed from layer to layer (see ``lrp/relevance.py``), with
    the z+ rule on convolutions and the epsilon rule on dense layers.
    """
    scores = {name: torch.zeros(place.features, device="cpu") for name, place in places.items()}

    def take(name: str, relevance: Tensor) -> None:
        scores[name] = feature_maps(relevance, places[name]).sum(2).abs().mean(0)

    propagate(model, places, images, labels, take)
    return finite(scores)


def propagate(
    model: nn.Module,
    places: Mapping[str, Place],
    images: Example,
    labels: Tensor,
    take: Take,
    *,
    rule: str = RULE,
    epsilon: float = EPSILON,
) -> Tensor:
    """Call ``take`` with each place's relevance, in the shape of its output; return the outputs it started from.

    Raises:
        ValueError: if ``rule`` is not a key of ``lrp.rules.RULES``.
    """
    from dropopt.engine.importance.lrp.relevance import RelevanceMode, refuse_reentrant

    with undisturbed(model), gradients_at(places, take):
        with RelevanceMode(rule, epsilon):
            outputs = explained(model, images, labels)
        refuse_reentrant(outputs)
        torch.autograd.backward(outputs, outputs.detach())
        return outputs.detach()


PROBES: dict[Importance, Probe] = {"gradient": gradient, "lrp": lrp, "composite": composite}
