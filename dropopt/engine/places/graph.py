"""What autograd's graph tells of a recorded forward pass: which layers made a tensor, which give the output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

#: Operations that mix features: what lies before one made other features. (Modules that wrap one are known by theirs.)
_MIXING = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "MkldnnConvolution", "CudnnConvolution", "ScaledDotProduct")


def makers(output: Any, layers: Collection[Any]) -> list[Any]:
    """Those of ``layers`` (graph nodes) that the node ``output`` is made of with no other layer in between."""
    found, seen, stack = [], set(), [output]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in layers:
            found.append(node)
        elif not node.name().startswith(_MIXING):
            stack += [before for before, _ in node.next_functions]
    return found


def outermost(outputs: Any, layers: Collection[Any]) -> set[Any]:
    """Nodes that ``outputs``, a model's, depend on through none of ``layers`` but, at most, the node itself.

    So these are the layers that give the outputs, and what follows them.
    """
    inside: dict[bool, set[Any]] = {False: set(), True: set()}  # by whether a layer lies behind
    stack = [(tensor.grad_fn, False) for tensor in tensors(outputs)]
    while stack:
        node, hidden = stack.pop()
        if node is None or node in inside[hidden]:
            continue
        inside[hidden].add(node)
        stack += [(before, hidden or node in layers) for before, _ in node.next_functions]
    return inside[False] - inside[True]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value):
        yield from tensors([getattr(value, field.name) for field in fields(value)])
