"""Dropout that a network has of its own at the places where an engine drops."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dropopt.engine.places.describe import makers_of_call, makers_of_node
from dropopt.engine.places.place import Place
from dropopt.engine.places.record import Forward

#: Parts of the class names of dropout layers in torch, torchvision, timm and transformers.
_NAMES = ("Dropout", "DropPath", "DropBlock", "StochasticDepth")
#: The attributes that hold their drop probability.
_PROBABILITIES = ("p", "drop_prob")


@dataclass(frozen=True)
class OwnDropout:
    """A dropout layer of the network, which drops features of a place of the engine."""

    name: str
    module: nn.Module
    attribute: str  # of the module, which holds p
    p: float  # drop probability, in (0, 1]

    def __str__(self) -> str:
        return f"{type(self.module).__name__} {self.name!r} (p = {self.p:g})"


@dataclass(frozen=True)
class OwnFunction:
    """A call of a dropout function by the network, which drops features of a place of the engine."""

    function: str  # of torch.nn.functional
    caller: str  # the name of the module that calls it, or the type of the network
    p: float  # drop probability, in (0, 1]

    def __str__(self) -> str:
        return f"F.{self.function} in the forward method of {self.caller} (p = {self.p:g})"


def dropout_at(forward: Forward, places: list[Place]) -> list[OwnDropout | OwnFunction]:
    """Return the active dropout layers and functions of the network that are at one of ``places``.

    They are at a place if they are part of the place's module, or if both pass on features that the same layers made.
    """
    containers = tuple(f"{place.name}." for place in places)
    made = {layer for place in places for layer in place.makers}
    found: list[OwnDropout | OwnFunction] = []
    for call in forward.calls:
        attribute = _probability(call.module)
        if attribute is None:
            continue
        if call.name.startswith(containers) or made.intersection(makers_of_call(forward, call)):
            found.append(OwnDropout(call.name, call.module, attribute, getattr(call.module, attribute)))
    for used in forward.dropped:
        if used.p == 0 or _probability(used.module) is not None:  # a layer is found above
            continue
        if f"{used.name}.".startswith(containers) or made.intersection(makers_of_node(forward, used.input.grad_fn)):
            found.append(OwnFunction(used.function, used.name or type(used.module).__name__, used.p))
    return found


def _probability(module: nn.Module) -> str | None:
    """Return the attribute with the drop probability of a dropout layer; None if the module drops nothing."""
    if not any(name in type(module).__name__ for name in _NAMES):
        return None
    for attribute in _PROBABILITIES:
        value = getattr(module, attribute, None)
        if isinstance(value, int | float) and value > 0:
            return attribute
    return None
