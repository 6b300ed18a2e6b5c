"""Passes of a probe through a network, which leave no trace.

A probe runs the network in eval mode. Parameters, their ``grad`` and ``requires_grad``, buffers, training flags, hooks
and the random state are the same afterwards, bit for bit, whether or not the probe raised. It computes in the type of
the parameters, outside autocast.

The passes also work under ``no_grad``, on frozen parameters, with in-place operations directly after a place, and
on inputs that have no gradient (token indices).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.engine.places.place import Example, Place
from dropopt.engine.places.record import copied, device_of, quiet
from dropopt.inputs import run_model

#: A function that a probe calls with a place's name and with the place's output or its gradient.
Take = Callable[[str, Tensor], None]

#: The class number of positions that have none, as in torch's cross-entropy.
_IGNORED = -100
#: Probabilities may miss a sum of 1 by this much, in half precision.
_ROUNDING = 1e-2


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode, eagerly, in full precision, with gradients on and parameters frozen; then restore."""
    frozen = [(p, p.requires_grad) for p in model.parameters() if p.is_leaf]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with ExitStack() as stack:
        stack.enter_context(quiet(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device_of(model).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # a module that compiles itself would ignore the hooks, or recompile
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for parameter, _ in frozen:
                parameter.requires_grad_(False)  # so that its gradient is neither computed nor left behind
            yield
        finally:
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)
            with torch.no_grad():
                for buffer, before in buffers:  # some modules update statistics in eval mode as well
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def outputs_at(places: Mapping[str, Place], take: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``take(name, output)`` with each place's output; what it returns, if anything, replaces the output."""
    with ExitStack() as hooks:
        for name, place in places.items():
            hook = place.module.register_forward_hook(lambda module, args, output, name=name: take(name, output))
            hooks.callback(hook.remove)
        yield


def gradients_at(places: Mapping[str, Place], take: Take) -> AbstractContextManager[None]:
    """Call ``take(name, gradient)`` with the gradient of each place's output, in the output's shape."""

    def from_here(name: str, output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():  # first pass of a re-entrant checkpoint: a second one follows
            return None
        # Where nothing before the place requires a gradient, the graph starts here.
        start: Any = output if output.requires_grad else output.detach().requires_grad_()
        start.register_hook(lambda gradient: take(name, gradient.detach()))
        return None if start is output else start.clone()

    return outputs_at(places, from_here)


def explained(model: nn.Module, images: Example, targets: Tensor) -> Tensor:
    """Run ``model`` and return the outputs whose causes a probe looks for, (N, ...).

    If the targets are class numbers (N, *positions), for logits (N, classes, *positions), these are the logits of the
    true classes, (N, *positions), and 0 where there is none (-100). If they are probabilities of classes, as one-hot
    vectors and those of mixup are, these are the means of the logits under them. For other targets, such as those of a
    regression, they are all outputs.

    The outputs are what the model returns, the first element of a tuple, or the entry or attribute ``logits``; of a
    mapping without that entry, the first entry.

    Raises:
        ValueError: if there are no such outputs, or if the targets do not fit them.
    """
    output = run_model(model, copied(model, images))
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), output))
    elif not isinstance(output, Tensor):
        output = output[0] if isinstance(output, tuple | list) else getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"a probe takes a model that returns logits, first or as 'logits', got {type(output).__name__}"
        )
    given, shape = tuple(targets.shape), tuple(output.shape)
    floating, by_class = targets.is_floating_point(), output.ndim > 1 and given == shape[:1] + shape[2:]
    if by_class and not floating and shape[1] > 1:
        numbers = targets.to(output.device, torch.int64)
        known = numbers.masked_fill(numbers == _IGNORED, 0)
        if len(outside := known[(known < 0) | (known >= shape[1])]):
            raise ValueError(
                f"a probe takes class numbers from 0 to {shape[1] - 1}, and {_IGNORED} for what is ignored, got "
                f"{int(outside[0])}: if that is your ignore_index, give labels.masked_fill(labels == "
                f"{int(outside[0])}, {_IGNORED})"
            )
        return output.gather(1, known.unsqueeze(1)).squeeze(1).masked_fill(numbers == _IGNORED, 0.0)
    if given == shape and output.ndim > 1 and _are_probabilities(targets):
        return (output * targets.to(output)).sum(1)
    if given[:1] == shape[:1] and (floating or by_class or given == shape):
        if by_class and shape[1] > 1 and _may_be_classes(targets, shape[1]):
            warnings.warn(
                f"the labels of a probe are whole numbers of type {targets.dtype}, which are taken for the targets of "
                "a regression: if they are class numbers, give labels.long()",
                stacklevel=2,
            )
        return output
    raise ValueError(
        "a probe takes class numbers (N,) for logits (N, classes), or targets in the shape of the outputs, "
        f"got {given} and {shape}; with other outputs, choose an importance without a probe, such as taylor"
    )


def _may_be_classes(targets: Tensor, classes: int) -> bool:
    """Whether floats may be class numbers: whole numbers from 0 to ``classes`` - 1 that are not all the same."""
    whole = bool(((targets >= 0) & (targets < classes) & (targets == targets.floor())).all())
    return whole and bool((targets != targets.flatten()[:1]).any())


def _are_probabilities(targets: Tensor) -> bool:
    """Whether targets (N, classes, *positions) give each sample a distribution over two classes or more."""
    total = targets.sum(1, dtype=torch.float32)
    return targets.shape[1] > 1 and bool((targets >= 0).all()) and bool(((total - 1).abs() < _ROUNDING).all())


def feature_maps(x: Tensor, place: Place) -> Tensor:
    """Return a place's output, or its gradient, as (N, C, positions) in float32."""
    x = x.detach().float().movedim(place.axis, 1)
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1)


def finite(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores with 0 in place of values that are negative or not finite."""
    return {name: s.nan_to_num(0.0, 0.0, 0.0).clamp(min=0).contiguous() for name, s in scores.items()}
