"""Find the places of a network that a selector chooses.

The network is run once, in eval mode, and every module call is recorded. A place is a module that runs exactly once
per forward pass and returns one tensor, so that a forward hook can mask its output without touching the module.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn

from dropopt.config import ConfigError
from dropopt.engine.places import graph
from dropopt.engine.places.describe import describe, is_complex, output_axis
from dropopt.engine.places.inside import OwnDropout, OwnFunction, dropout_at
from dropopt.engine.places.layers import holds_weights, is_convolution, is_linear, is_norm, is_weighted
from dropopt.engine.places.place import Example, Place, Selector
from dropopt.engine.places.record import Call, Forward, record

#: The selectors of a kind of places. Which modules they choose depends on the network.
KINDS = ("auto", "norm", "conv", "linear", "block")


class Survey(NamedTuple):
    """What one pass through a network shows."""

    places: list[Place]  # in order of execution
    own: list[OwnDropout | OwnFunction]  # the dropout that the network has at these places
    unrun: list[str]  # parts that did not run, so that they have no places: experts, or layers after an early exit
    shared: list[str]  # parts outside of the places that run several times, such as the encoder of a siamese network


def survey(model: nn.Module, sites: Selector, example: Example) -> Survey:
    """Find the places of ``model`` that ``sites`` selects, and what the same pass shows of the rest of the network.

    Args:
        model: any module. It is run once on ``example`` and left as it was.
        sites: one of these, or a tuple of the strings:

            - ``auto``: outputs of residual blocks if there are at least two; otherwise outputs of normalisation layers
              and hidden linear layers; otherwise outputs of convolutions and hidden linear layers;
            - ``norm``, ``conv``, ``linear``, ``block``: all layers of that kind, except norms of the inputs;
            - ``last:k``: the last k places of ``auto``;
            - a glob pattern on module names, such as ``layer4.*``. Of nested modules it selects the outermost. Of
              modules that pass on the same features (convolution, normalisation, activation, pooling) it selects the
              normalisation, or else the first. So no feature is dropped twice;
            - a function (name, module) -> bool; of nested modules it selects the outermost.

            A tuple selects the places of all its members, so it can select nested modules. The layer that gives the
            network's output is never a place, nor is any module after it.
        example: an input batch; a tuple or a dictionary for several arguments.

    Raises:
        ConfigError: if a module is scripted or compiled, if a selector matches nothing, or if a selected module runs
            more than once, does not run, or returns something other than one tensor with features.
    """
    _refuse_compiled(model)
    forward = record(model, example)
    selection = _Selection(forward)
    calls = selection.choose(sites)
    places = [describe(forward, call) for call in calls]
    return Survey(places, dropout_at(forward, places), forward.unrun, selection.shared(calls))


def named_places(model: nn.Module, example: Example) -> dict[str, list[str]]:
    """Return the names of the modules that each of the selectors in KINDS chooses, in order of execution.

    The list is empty where the selector matches nothing or cannot be used. ``model`` and ``example`` are those of
    :func:`survey`, and the model is run once.
    """
    _refuse_compiled(model)
    forward = record(model, example)
    selection = _Selection(forward)
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        try:
            found[kind] = [describe(forward, call).name for call in selection.choose(kind)]
        except ConfigError:
            found[kind] = []
    return found


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"module {name or 'model'!r} is scripted, which hides its layers: attach to the module that was given "
                "to torch.jit.script, and script it after engine.detach()"
            )
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ConfigError(
                f"module {name or 'model'!r} is compiled, which ignores new hooks: attach first, then torch.compile"
            )


class _Selection:
    """Chooses among the calls of a recorded forward pass."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.kinds: dict[str, Callable[[Call], bool]] = {
            "conv": lambda call: is_convolution(call.module),
            "norm": lambda call: is_norm(call.module) and not graph.is_of_input(call.node),
            "linear": lambda call: is_linear(call.module),
            "block": lambda call: _is_block(forward, call),  # not a method, whose cycle would keep the pass in memory
        }

    def choose(self, sites: Selector) -> list[Call]:
        """Return the calls that the selectors choose, in order of execution; each must choose at least one."""
        if not isinstance(sites, str | tuple | list) and not callable(sites):
            raise ConfigError(f"sites must be text, a tuple of texts or a function, got {type(sites).__name__}")
        if not sites:
            raise ConfigError(f"sites is empty and matches no module; {self._available()}")
        chosen: set[int] = set()
        for one in sites if isinstance(sites, tuple | list) else (sites,):
            calls = self._select(one)
            if not calls:
                raise ConfigError(f"sites {one!r} matches no module; {self._available()}")
            chosen |= {call.index for call in calls}
        calls = [call for call in self.forward.calls if call.index in chosen]
        # A container that returns the output of a part is the same place as that part.
        return [call for call in calls if not any(_contains(outer, call) and _same(outer, call) for outer in calls)]

    def _available(self) -> str:
        usable = {kind: len(self._usable(test)) for kind, test in self.kinds.items()}
        counts = ", ".join(f"{kind} ({number})" for kind, number in usable.items())
        letter = self.forward.last.name[:1]
        allowed = f"allowed: auto, {counts}, last:k, a pattern on module names such as '{letter}*'"
        complex_ones = any(map(is_complex, self.forward.calls))
        hint = (". Modules that return complex numbers have no dropout" if complex_ones else "") + self._shared_hint()
        return allowed + (hint or ("" if any(usable.values()) else self._output_hint()))

    def _shared_hint(self) -> str:
        """What to do about a part that runs several times, such as a siamese encoder; empty without one."""
        if not (shared := self._shared_calls()):
            return ""
        name, times = shared[0].name, self.forward.times(shared[0])
        return (
            f". Module {name!r} runs {times} times in one forward pass, so nothing in it can be a site: attach to "
            f"model.{name} alone, or give each use a module of its own"
        )

    def _output_hint(self) -> str:
        """What to do about a part of a network, of which everything belongs to its output."""
        return (
            f". Nothing is dropped in the output, which module {self.forward.last.name!r} gives: attach to the whole "
            "network if this is a part of it"
        )

    def shared(self, chosen: list[Call]) -> list[str]:
        """The names of the parts outside of the ``chosen`` ones that run several times."""
        outside = (call for call in self._shared_calls() if not any(_contains(outer, call) for outer in chosen))
        return list(dict.fromkeys(call.name for call in outside))

    def _shared_calls(self) -> list[Call]:
        """The outermost calls of modules with weights that run several times."""
        return _outermost(
            [c for c in self.forward.calls if self.forward.times(c) > 1 and c.name and holds_weights(c.module)]
        )

    def _has_inner(self, call: Call) -> bool:
        """Whether a part has a layer with weights before its last one, at which an engine of its own could drop."""
        return len({id(part) for part in call.module.modules() if is_weighted(part)}) > 1

    def _select(self, selector: str | Callable[[str, nn.Module], bool]) -> list[Call]:
        if callable(selector):
            return self._once(_outermost(self._inner(lambda call: bool(selector(call.name, call.module)))))
        if selector == "auto":
            return self._auto()
        if selector.startswith("last:"):
            k = selector.removeprefix("last:")
            if not k.isdecimal() or int(k) < 1:
                raise ConfigError(f"sites {selector!r}: last:k takes a whole number k >= 1, such as last:2")
            return self._auto()[-int(k) :]
        if selector in self.kinds:
            calls = self._inner(self.kinds[selector])
            return self._once([call for call in calls if not is_complex(call)] or calls)
        return self._named(selector)

    def _auto(self) -> list[Call]:
        blocks = self._usable(self.kinds["block"])
        if len(blocks) >= 2:
            return blocks
        norms = self._usable(self.kinds["norm"])
        first = norms or self._usable(self.kinds["conv"])
        normed = {id(t) for call in norms for t in call.inputs}
        hidden = [call for call in self._usable(self.kinds["linear"]) if id(call.output) not in normed]
        chosen = {call.index for call in first + hidden}
        return [call for call in self.forward.calls if call.index in chosen]

    def _named(self, pattern: str) -> list[Call]:
        """Calls whose names match; an error if modules match but none of them can be a place."""

        def matches(name: str) -> bool:
            return name == pattern or fnmatchcase(name, pattern)  # a name may hold brackets, as keys of ModuleDict do

        if chosen := _outermost(self._inner(lambda call: matches(call.name))):
            return self._once(self._one_per_chain(chosen))
        late = [c.name for c in self.forward.calls if not self.forward.is_inner(c) and c.name and matches(c.name)]
        if late:
            raise ConfigError(f"module {late[0]!r} gives the network's output: dropout there would drop classes")
        silent = [name for name, _ in self.forward.model.named_modules() if name and matches(name)]
        if silent:
            raise ConfigError(f"module {silent[0]!r} did not run in the forward pass: it cannot be a site")
        return []

    def _inner(self, test: Callable[[Call], bool]) -> list[Call]:
        """Calls that pass ``test`` and return before the output layers."""
        return [call for call in self.forward.calls if self.forward.is_inner(call) and test(call)]

    def _usable(self, test: Callable[[Call], bool]) -> list[Call]:
        """Calls that pass ``test`` and can be places."""
        return [
            call
            for call in self._inner(test)
            if self.forward.times(call) == 1 and output_axis(self.forward, call) is not None
        ]

    def _once(self, calls: list[Call]) -> list[Call]:
        """The same calls; a module that runs several times is an error, because the user selected it."""
        for call in calls:
            if (times := self.forward.times(call)) > 1:
                shared = next((c for c in self._shared_calls() if c.name == call.name or _contains(c, call)), None)
                if shared is None:
                    instead = "choose other sites (such as 'norm' or 'conv')"
                elif self._auto() and not self._has_inner(shared):  # such as the cell of a recurrent network
                    instead = "choose sites='auto', which leaves it out"
                else:
                    instead = f"attach to model.{shared.name} alone"
                raise ConfigError(
                    f"module {call.name!r} runs {times} times in one forward pass: one mask cannot serve it; "
                    f"{instead}, or give each use a module of its own"
                )
        return calls

    def _one_per_chain(self, calls: list[Call]) -> list[Call]:
        """One call of each chain of modules that pass on the same features: the first norm, or else the first module.

        A module without weights, or a norm, continues the chain of the module whose output it reads.
        """
        chains: list[list[Call]] = []
        for call in calls:
            passes_on = not is_weighted(call.module) and not holds_weights(call.module) and len(call.inputs) == 1
            before = (chain for chain in reversed(chains) if any(c.output is call.inputs[0] for c in chain))
            if passes_on and (chain := next(before, None)) is not None:
                chain.append(call)
            else:
                chains.append([call])
        chosen = [next((call for call in chain if is_norm(call.module)), chain[0]) for chain in chains]
        return sorted(chosen, key=lambda call: call.index)


def _is_block(forward: Forward, call: Call) -> bool:
    """Whether this is the innermost container with weights that returns a given residual sum."""
    if not call.residual or not holds_weights(call.module):
        return False
    # An in-place sum keeps the identity of an inner container's output, which was no sum when that returned. In a
    # chain of such blocks, all return the same tensor.
    return not any(
        c.output is call.output and c.residual and holds_weights(c.module)
        for c in forward.calls[: call.index]
        if _contains(call, c)
    )


def _outermost(calls: list[Call]) -> list[Call]:
    """Those of ``calls`` whose modules are inside none of the others."""
    return [call for call in calls if not any(_contains(outer, call) for outer in calls)]


def _contains(outer: Call, call: Call) -> bool:
    return call.name.startswith(f"{outer.name}.")


def _same(one: Call, other: Call) -> bool:
    """Whether both return the same tensor with the same values; an in-place operation gives it another node."""
    return one.output is other.output and one.node is other.node
