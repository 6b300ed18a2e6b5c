"""The inputs of a network: one tensor, or several, by position or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

#: What a network takes: a tensor; a tuple, whose tensors are positional arguments; or a dictionary of named arguments.
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def each(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply ``function`` to each tensor of ``inputs``; the structure stays.

    Example:
        >>> import torch
        >>> each(lambda part: part + 1, {"a": torch.zeros(1), "b": torch.ones(1)})
        {'a': tensor([1.]), 'b': tensor([2.])}
    """
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: function(part) for name, part in inputs.items()}
    return tuple(function(part) for part in inputs)


def parts(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of ``inputs`` by name; those without a name are numbered from 1."""
    if isinstance(inputs, Tensor):
        return {"1": inputs}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {str(number): part for number, part in enumerate(inputs, start=1)}


def gathered(function: Callable[..., Tensor], several: list[Inputs]) -> Inputs:
    """Apply ``function``, such as ``torch.cat``, to the list of the first tensors of ``several``, of the second, ..."""
    first = several[0]
    if isinstance(first, Tensor):
        return function(several)
    if isinstance(first, Mapping):
        return {name: function([one[name] for one in several]) for name in first}  # type: ignore[index,call-overload]
    return tuple(function(list(column)) for column in zip(*several, strict=True))


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    """Run ``model`` on ``inputs``: the tensors of a tuple by position, those of a dictionary by name."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
