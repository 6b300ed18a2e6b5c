"""What can be read from autograd's graph of a recorded forward pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

#: Operations that mix features: the features before one are different from those after it.
_MIXING = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Linear"),
    *("Convolution", "MkldnnConvolution", "CudnnConvolution", "ScaledDotProduct"),
)
#: Operations that make features of inputs.
_HIDING = (*_MIXING, "Trilinear", "Embedding", "CudnnRnn", "MkldnnRnn", "Miopen", "Thnn", "Fft")
#: Operations that copy values or change the order of dimensions.
_REORDERING = ("CloneBackward", "ToCopyBackward", "PermuteBackward", "TransposeBackward")
#: Types of values that hold tensors, or are tensors.
_HOLDERS = (Tensor, Mapping, list, tuple)
#: Largest number of one-input operations (an activation, a view, a copy) between a residual sum and the output.
_AFTER_SUM = 3
#: Names of operations of torch; those of other functions have no number.
_OF_TORCH = re.compile(r"Backward\d+$")


def is_residual(node: Any, layers: Collection[Any] = ()) -> bool:
    """Whether the graph of ``node`` ends in a sum of two computed tensors that is none of ``layers`` itself."""
    for _ in range(_AFTER_SUM + 1):
        if node is None or node in layers:
            return False
        before = [n for n, _ in node.next_functions]
        if node.name().startswith("AddBackward"):
            return len(before) == 2 and all(n and n.name() != "torch::autograd::AccumulateGrad" for n in before)
        if len(before) != 1:  # a layer with weights, or with several inputs
            return False
        node = before[0]
    return False


def before_permutations(node: Any, axis: int, ndim: int) -> int:
    """Return which of ``ndim`` dimensions ``axis`` was before the copies and permutations that end the graph."""
    while node is not None and node.name().startswith(_REORDERING):
        order = list(range(ndim))
        if node.name().startswith("Permute"):
            order = [_signed(dim) % ndim for dim in node._saved_dims]
        elif node.name().startswith("Transpose"):
            one, other = _signed(node._saved_dim0) % ndim, _signed(node._saved_dim1) % ndim
            order[one], order[other] = other, one
        axis = order[axis]
        node = node.next_functions[0][0]
    return axis


def _signed(number: int) -> int:
    """Return a number of 64 bits with its sign, which autograd leaves out."""
    return number - 2**64 if number >= 2**63 else number


def walk(nodes: Iterable[Any], passes: Callable[[Any], bool] = lambda node: True) -> Iterator[Any]:
    """Yield ``nodes`` and all that they depend on, each once; nothing before a node that does not pass."""
    seen: set[Any] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            if passes(node):
                stack += [before for before, _ in node.next_functions]


def makers(output: Any, layers: Collection[Any]) -> list[Any]:
    """Return those of ``layers`` (graph nodes) that the node ``output`` depends on with no other layer in between."""
    found = walk([output], lambda node: node not in layers and not node.name().startswith(_MIXING))
    return [node for node in found if node in layers]


def is_of_input(output: Any) -> bool:
    """Whether the node ``output`` depends on inputs in which nothing but scale and shape was changed.

    Functions that are not torch's own may make features, so they count as changes. Parameters, such as the queries that
    a network learns, are no inputs.
    """
    found = False
    for node in walk([output]):
        if node.name() == "torch::autograd::AccumulateGrad":
            found = found or not isinstance(node.variable, nn.Parameter)
        elif not _OF_TORCH.search(node.name()) or node.name().startswith(_HIDING):
            return False
    return found  # without a graph, nothing is known


def outermost(outputs: Any, layers: Collection[Any]) -> set[Any]:
    """Return the nodes between ``outputs``, a model's outputs, and the last of ``layers`` on every path, inclusive.

    These are the layers that give the outputs, and the operations that follow them.
    """
    shown = set(walk((tensor.grad_fn for tensor in tensors(outputs)), lambda node: node not in layers))
    return shown - feeding(shown.intersection(layers))


def feeding(nodes: Iterable[Any]) -> set[Any]:
    """Return every node that at least one of ``nodes`` depends on, without these themselves unless others need them."""
    return set(walk(before for node in nodes for before, _ in node.next_functions))


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, mappings, data classes and the attributes of other objects.

    Of the attributes, only such values count: an object may refer to anything, also to itself.
    """
    seen: dict[int, Any] = {}  # which keeps the objects, so that no other gets the number of one
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, Tensor):
            yield one
        elif id(one) in seen or isinstance(one, type):
            continue
        elif isinstance(one, Mapping):
            stack += one.values()
        elif isinstance(one, list | tuple):
            stack += one
        elif is_dataclass(one):
            stack += [getattr(one, field.name, None) for field in fields(one)]
        elif hasattr(one, "__dict__"):
            stack += [part for part in vars(one).values() if isinstance(part, _HOLDERS) or is_dataclass(part)]
        seen[id(one)] = one
