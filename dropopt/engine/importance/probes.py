"""Scores of features that need passes of their own, on a labelled batch: gradient, relevance, composite.

A probe runs the network in eval mode with its sites silent, and leaves no trace: parameters, their ``grad`` and
``requires_grad``, buffers, training flags, hooks and random state are afterwards, bit for bit, what they were before,
whether or not something failed on the way. It computes in the parameters' own type, outside autocast.

The passes may run under ``no_grad``, on frozen parameters, with in-place operations right behind a place, and on
inputs that have no gradient (token indices).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dropopt import equations
from dropopt.engine.importance.lrp.relevance import EPSILON, RULE, RelevanceMode, refuse_reentrant
from dropopt.engine.places.find import Example, Place, quiet

Probe = Callable[[nn.Module, Mapping[str, Place], Example, Tensor], dict[str, Tensor]]
#: What a probe does with a place's output and with what flows back to it.
Take = Callable[[str, Tensor], None]

#: Parts of ``composite`` and their weights: nothing says that one tells more than another.
WEIGHT_ACTIVATION = 1.0
WEIGHT_VARIANCE = 1.0
WEIGHT_UNIQUENESS = 1.0
WEIGHT_KERNEL = 1.0

#: Correlations are estimated on at most this many responses per feature, evenly spaced over batch and positions.
_RESPONSES = 4096


def gradient(model: nn.Module, places: Mapping[str, Place], images: Example, labels: Tensor) -> dict[str, Tensor]:
    """|dY/dn| of each neuron n, averaged over batch and a feature's positions, (C,); Y is the true class's logit.

    From "Feature Importance". One pass back serves all places: in eval mode samples do not interact, so the gradient
    of the sum of their logits is the gradient of each.
    """
    scores = {name: torch.zeros(place.features) for name, place in places.items()}

    def take(name: str, flow: Tensor) -> None:
        scores[name] = _maps(flow, places[name]).abs().mean((0, 2))

    with _undisturbed(model), _reported(places, take):
        torch.autograd.backward(_true_logits(model, images, labels).sum())
    return _finite(scores)


def lrp(
    model: nn.Module,
    places: Mapping[str, Place],
    images: Example,
    labels: Tensor,
    *,
    rule: str = RULE,
    epsilon: float = EPSILON,
) -> dict[str, Tensor]:
    """|relevance| of each feature for the true class, summed over its positions, averaged over the batch, (C,).

    The logit Y is redistributed from layer to layer (see ``lrp.py``), by default with z+ on convolutions and epsilon
    on dense layers. Raises ValueError for an unknown ``rule``.
    """
    scores = {name: torch.zeros(place.features) for name, place in places.items()}

    def take(name: str, flow: Tensor) -> None:
        scores[name] = _maps(flow, places[name]).sum(2).abs().mean(0)

    propagate(model, places, images, labels, take, rule=rule, epsilon=epsilon)
    return _finite(scores)


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
    """Hand each place's relevance, in the shape of its output, to ``take``; returns the logits (N,) it began as."""
    with _undisturbed(model), _reported(places, take):
        with RelevanceMode(rule, epsilon):
            logits = _true_logits(model, images, labels)
        refuse_reentrant(logits)
        torch.autograd.backward(logits, logits.detach())
        return logits.detach()


def composite(model: nn.Module, places: Mapping[str, Place], images: Example, labels: Tensor) -> dict[str, Tensor]:
    """Weighted mean in [0, 1] of four parts, each normalised over its layer, (C,); from the forward pass alone.

    - activation: mean |a| over batch and positions;
    - variance over the batch of the response pooled over positions;
    - uniqueness: 1 - |Pearson correlation| with the nearest neighbour, the map of the layer that is most like it (the
      order of channels means nothing). What another map says too is spared less. A constant map has 0;
    - kernel norm: L2 norm of the weights that make the feature, after the normalisation that follows them.
      Where no layer is known to make it, this part is left out and the others share its weight.
    """
    scores: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        scores[name] = _combined(_maps(output, places[name]), places[name])

    with _undisturbed(model), torch.no_grad(), ExitStack() as hooks:
        for name, place in places.items():
            hook = _seen(name, note)
            hooks.callback(place.module.register_forward_hook(hook).remove)
        model(*_inputs(model, images))
    return _finite(scores)


PROBES: dict[str, Probe] = {"gradient": gradient, "lrp": lrp, "composite": composite}


# -- the parts of composite


def _combined(maps: Tensor, place: Place) -> Tensor:
    parts = [
        (WEIGHT_ACTIVATION, maps.abs().mean((0, 2))),
        (WEIGHT_VARIANCE, maps.mean(2).var(0, correction=0)),
        (WEIGHT_UNIQUENESS, _uniqueness(maps)),
    ]
    kernel = _kernel_norm(place)
    if kernel is not None:
        parts.append((WEIGHT_KERNEL, kernel))
    total = sum(weight for weight, _ in parts)
    score = torch.zeros_like(parts[0][1])
    for weight, part in parts:
        score += weight / total * torch.as_tensor(equations.normalised(part.nan_to_num(0.0, 0.0, 0.0)))
    return score


def _uniqueness(maps: Tensor) -> Tensor:
    """1 - |correlation| of each feature's responses (N, C, P) with those of the feature most like it, (C,)."""
    responses = maps.transpose(0, 1).flatten(1)
    responses = responses[:, :: -(-responses.shape[1] // _RESPONSES)]
    centred = responses - responses.mean(1, keepdim=True)
    length: Tensor = centred.norm(dim=1)
    constant: Tensor = length <= 1e-6 * responses.norm(dim=1)  # nothing left but rounding
    unit = centred / length.masked_fill(constant, 1.0).unsqueeze(1)
    alike = (unit @ unit.T).abs().fill_diagonal_(0)
    return (1 - alike.amax(1)).clamp(0, 1).masked_fill(constant, 0.0)


def _kernel_norm(place: Place) -> Tensor | None:
    """L2 norm (C,) of each feature's weights, times the scale of the normalisation behind them; None without."""
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


# -- passes


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, eager, full precision, gradients on and parameters frozen inside; all as it was outside."""
    frozen = [(p, p.requires_grad) for p in model.parameters() if p.is_leaf]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with ExitStack() as stack:
        stack.enter_context(quiet(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", _device(model).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # a module that compiles itself would ignore the hooks, or compile anew
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for parameter, _ in frozen:
                parameter.requires_grad_(False)  # so that no gradient is left behind, nor computed
            yield
        finally:
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)
            with torch.no_grad():
                for buffer, before in buffers:  # modules may keep statistics in eval mode too
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def _reported(places: Mapping[str, Place], take: Take) -> Iterator[None]:
    """Calls ``take(name, flow)`` with what flows back to each place's output, as it left the module."""
    with ExitStack() as hooks:
        for name, place in places.items():
            hooks.callback(place.module.register_forward_hook(_watched(name, take)).remove)
        yield


def _watched(name: str, take: Take) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():  # first pass of a re-entrant checkpoint: a second one follows
            return None
        # Where nothing before it has a gradient, it begins here.
        start: Any = output if output.requires_grad else output.detach().requires_grad_()
        start.register_hook(lambda flow: take(name, flow.detach()))
        return None if start is output else start.clone()

    return hook


def _seen(name: str, note: Take) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        note(name, output)

    return hook


def _true_logits(model: nn.Module, images: Example, labels: Tensor) -> Tensor:
    """Logit of each sample's class, (N,)."""
    output = model(*_inputs(model, images))
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        output = output[0] if isinstance(output, tuple | list) else getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"a probe takes a model that returns logits, first or as 'logits', got {type(output).__name__}"
        )
    if output.ndim != 2 or labels.shape != output.shape[:1]:
        raise ValueError(
            f"a probe takes labels (N,) and a model that returns logits (N, classes), "
            f"got {tuple(labels.shape)} and {tuple(output.shape)}"
        )
    logits: Tensor = output.gather(1, labels.to(output.device, torch.int64).unsqueeze(1)).squeeze(1)
    return logits


def _inputs(model: nn.Module, images: Example) -> list[Tensor]:
    """Copies on the model's device, in its type; no operation of the model can reach the originals."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    tensors = images if isinstance(images, tuple) else (images,)
    copies = [t.detach().to(like if t.is_floating_point() else like.device).clone() for t in tensors]
    if torch.is_grad_enabled():
        return [t.requires_grad_().clone() if t.is_floating_point() else t for t in copies]
    return copies


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _maps(x: Tensor, place: Place) -> Tensor:
    """(N, C, positions) in float32."""
    x = x.detach().float().movedim(place.axis, 1)
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1)


def _finite(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: s.nan_to_num(0.0, 0.0, 0.0).clamp(min=0).contiguous() for name, s in scores.items()}
