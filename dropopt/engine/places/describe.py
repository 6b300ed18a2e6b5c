"""What is known about the output of a recorded call: its feature dimension, and the layers that make its features."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from dropopt.config import ConfigError
from dropopt.engine.places import graph
from dropopt.engine.places.layers import feature_axis, feature_count, holds_weights, is_norm, is_weighted
from dropopt.engine.places.place import Place
from dropopt.engine.places.record import Call, Forward


def describe(forward: Forward, call: Call) -> Place:
    """Return the place of a chosen call.

    Raises:
        ConfigError: if its output has no feature dimension.
    """
    axis = output_axis(forward, call)
    if axis is None:
        if is_complex(call):
            raise ConfigError(
                f"module {call.name!r} returns complex numbers, which have no dropout in PyTorch either: choose other "
                "sites"
            )
        raise ConfigError(f"module {call.name!r} returns {_shape(call.output)}: no feature dimension to drop")
    return Place(
        name=call.name,
        module=call.module,
        axis=axis,
        features=call.output.shape[axis],
        ndim=call.output.ndim,
        depth=forward.depth(call),
        weighted=_weighted(forward, call),
        makers=makers_of_call(forward, call),
        shape=tuple(call.output.shape[1:]),
        reshapes=bool(call.inputs) and call.inputs[0].shape != call.output.shape,
    )


def is_complex(call: Call) -> bool:
    """Whether a module returns complex numbers."""
    return isinstance(call.output, Tensor) and call.output.is_complex()


def output_axis(forward: Forward, call: Call) -> int | None:
    """Return the feature dimension of a call's output, 1 or -1; None where it has none.

    The kind of the module determines it, or else the kinds and sizes of the modules before and after it.
    """
    if not isinstance(call.output, Tensor) or call.output.ndim < 2 or is_complex(call):
        return None
    shape = call.output.shape
    own, count = feature_axis(call.module), feature_count(call.module)
    if own == -1 and count in (None, shape[1]) and _moves_features(call.output, call.node):
        return 1  # a LayerNorm that permutes maps, also if they have as many columns as features
    if own is not None and count in (None, shape[own]):  # not of a LayerNorm that permutes maps
        return own
    if call.output.ndim == 2:
        return 1
    if shape[1] == shape[-1]:  # the sizes do not decide; the module that reads the output may
        readers = (feature_axis(c.module) for c in forward.calls if any(t is call.output for t in c.inputs))
        if (axis := next((a for a in readers if a is not None), None)) is not None:
            return axis
    before = (c.module for c in reversed(forward.calls[: call.index + 1]) if feature_count(c.module))
    layer = next(before, call.module)
    features = feature_count(layer)
    if features == shape[1] == shape[-1]:
        return 1 if call.output.ndim > 3 else feature_axis(layer)
    if features in (shape[1], shape[-1]):
        return 1 if features == shape[1] else -1
    return 1 if call.output.ndim > 3 else -1


def _moves_features(output: Tensor, node: Any) -> bool:
    """Whether the last operations of a module have moved the last dimension to dimension 1."""
    return output.ndim > 2 and graph.before_permutations(node, 1, output.ndim) == output.ndim - 1


def _weighted(forward: Forward, call: Call) -> tuple[nn.Module, ...]:
    """The layers whose output features a call returns: a weighted layer itself; a norm and the layer before it."""
    if is_norm(call.module):
        read = {id(t) for t in call.inputs}
        before = [c.module for c in forward.calls if id(c.output) in read and is_weighted(c.module)]
        return (*before, call.module)
    return (call.module,) if is_weighted(call.module) else ()


def makers_of_call(forward: Forward, call: Call) -> tuple[nn.Module, ...]:
    """Return the layers that make the features of a call's output, also through sums and activations."""
    if known := _weighted(forward, call):
        return known
    # A block adds to its input, whose features other layers make.
    own = set(call.module.modules()) if holds_weights(call.module) else None
    return makers_of_node(forward, call.node, own)


def makers_of_node(forward: Forward, node: Any, among: Collection[nn.Module] | None = None) -> tuple[nn.Module, ...]:
    """Return the layers that make the features of a node of autograd's graph; with ``among``, only those in it."""
    layers = {c.node: c for c in forward.calls if c.node is not None and (is_norm(c.module) or is_weighted(c.module))}
    found = [layers[maker] for maker in graph.makers(node, layers)]
    modules = [module for c in found if among is None or c.module in among for module in _weighted(forward, c)]
    return tuple(dict.fromkeys(modules))


def _shape(output: Any) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
