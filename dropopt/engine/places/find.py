"""Which layers of a network can drop features, and what is known about each; knows no equation.

The network is run once, in eval mode with its state guarded, and every module call is recorded. A place is a
module that fires exactly once per forward and returns one tensor; its output may then be masked by a forward hook
without touching the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from dropopt.config import ConfigError
from dropopt.engine.places import graph

Example = Tensor | tuple[Tensor, ...]
Selector = str | tuple[str, ...] | Callable[[str, nn.Module], bool]

#: A residual sum may hide behind this many one-input operations: an activation, a view, a copy.
_BEHIND_SUM = 3


@dataclass(frozen=True)
class Place:
    """A module whose output can be masked."""

    name: str
    module: nn.Module
    axis: int  # of the features: 1 (N, C, ...) or -1 (N, ..., C)
    features: int  # C
    ndim: int  # dimensions of the output, batch included
    depth: float  # share of the weighted layers that have run by then, in (0, 1]
    weighted: tuple[nn.Module, ...]  # layers whose output features these are: the convolution before a norm, the norm
    makers: tuple[nn.Module, ...] = ()  # the same; of a sum or an activation, the layers that it is made of


@dataclass
class _Call:
    """One module call of the recorded forward."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]  # kept alive, as the output is, so that identities stay unique
    output: Any
    residual: bool  # the output is a sum of two branches
    node: Any  # of the graph, as the module returned: an in-place operation gives the output another one


def find_places(model: nn.Module, sites: Selector, example: Example) -> list[Place]:
    """Places of ``model`` that ``sites`` selects, in order of execution.

    ``sites`` is ``auto`` (outputs of residual blocks where there are at least two, else normalisation layers and
    hidden linear ones, else convolutions and hidden linear ones), ``norm``, ``conv``, ``linear``, ``block``,
    ``last:k`` (the last k of ``auto``), a glob pattern on module names, a tuple of these, or a function
    (name, module) -> bool. The layer that gives the network's output, and what follows it, is never a place.

    Raises ConfigError, naming the module, for a scripted or compiled one, a selector that matches nothing, and a
    selected module that fires more than once, never, or returns something other than one tensor of features.
    """
    _refuse_compiled(model)
    finder = _Finder(model, _run(model, example))
    return [finder.place(call) for call in finder.choose(sites)]


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"module {name or 'model'!r} is scripted, which hides its layers: attach before scripting"
            )
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ConfigError(
                f"module {name or 'model'!r} is compiled, which ignores new hooks: attach first, then torch.compile"
            )


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Eval mode and a guarded random state inside; every training flag as it was outside."""
    flags = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for module, training in flags:
            module.training = training


def _run(model: nn.Module, example: Example) -> list[_Call]:
    calls: list[_Call] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            inputs = tuple(a for a in args if isinstance(a, Tensor))
            residual = isinstance(output, Tensor) and _is_residual(output.grad_fn)
            calls.append(_Call(name, module, inputs, output, residual, getattr(output, "grad_fn", None)))

        return hook

    tensors = example if isinstance(example, tuple) else (example,)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # These return weights: spectral and weight norm, low-rank updates.
    lists = [module for module in model.modules() if isinstance(module, ParametrizationList)]
    not_layers = {id(part) for found in lists for part in found.modules()}
    handles = []
    try:
        for name, module in model.named_modules():
            if id(module) not in not_layers:
                handles.append(module.register_forward_hook(note(name)))
        with quiet(model), torch.enable_grad():
            # A gradient must flow for residual sums to show in the graph, frozen weights or not; the clone keeps
            # the example itself out of in-place operations.
            inputs = [
                t.detach().to(device).requires_grad_().clone() if t.is_floating_point() else t.to(device)
                for t in tensors
            ]
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_residual(node: Any) -> bool:
    """Whether the graph ends in a sum of two computed tensors."""
    for _ in range(_BEHIND_SUM + 1):
        if node is None:
            return False
        before = [n for n, _ in node.next_functions]
        if node.name().startswith("AddBackward"):
            return len(before) == 2 and all(n and n.name() != "torch::autograd::AccumulateGrad" for n in before)
        if len(before) != 1:  # a layer with weights, or with several inputs
            return False
        node = before[0]
    return False


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def _holds_weights(module: nn.Module) -> bool:
    return not _is_weighted(module) and any(_is_weighted(part) for part in module.modules())


def _is_norm(module: nn.Module) -> bool:
    known = nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm  # with activations inside, in timm
    return isinstance(module, known) or ("Norm" in type(module).__name__ and not any(True for _ in module.children()))


class _Finder:
    """Chooses among recorded calls."""

    def __init__(self, model: nn.Module, calls: list[_Call]) -> None:
        self.model = model
        self.calls = calls
        self.times: dict[int, int] = {}
        for call in self.calls:
            self.times[id(call.module)] = self.times.get(id(call.module), 0) + 1
        weighted = [i for i, call in enumerate(self.calls) if _is_weighted(call.module)]
        if not weighted:
            raise ConfigError(f"model {type(model).__name__} runs no convolution or linear layer to put dropout behind")
        self.last = weighted[-1]  # gives the network's output
        # So may others: a network may have several heads.
        outer = graph.outermost(self.calls[-1].output, {self.calls[i].node for i in weighted} - {None})
        self.outer = {id(call) for call in self.calls[: self.last] if call.node in outer}
        # How many weighted layers have run when call i ends: containers end after their children.
        done = 0
        self.done = []
        for call in self.calls:
            done += _is_weighted(call.module)
            self.done.append(done)

    def choose(self, sites: Selector) -> list[_Call]:
        """Calls that the selectors pick, in order of execution; each selector must pick one."""
        if sites == ():
            raise ConfigError(f"sites is empty and matches no module; {self._available()}")
        chosen: set[int] = set()
        for one in sites if isinstance(sites, tuple) else (sites,):
            calls = self._select(one)
            if not calls:
                raise ConfigError(f"sites {one!r} matches no module; {self._available()}")
            chosen |= {id(call) for call in calls}
        return [call for call in self.calls if id(call) in chosen]

    def _available(self) -> str:
        kinds = {kind: len(self._usable(test)) for kind, test in self._kinds().items()}
        counts = ", ".join(f"{kind} ({n})" for kind, n in kinds.items())
        return f"allowed: auto, {counts}, last:k, a pattern on module names such as '{self.calls[self.last].name[:1]}*'"

    def place(self, call: _Call) -> Place:
        """What is known of a chosen call; ConfigError where its output has no features."""
        index = next(i for i, c in enumerate(self.calls) if c is call)
        axis = self._axis(call, index)
        if axis is None:
            raise ConfigError(f"module {call.name!r} returns {_shape(call.output)}: no feature dimension to drop")
        return Place(
            name=call.name,
            module=call.module,
            axis=axis,
            features=call.output.shape[axis],
            ndim=call.output.ndim,
            depth=max(1, self.done[index]) / self.done[-1],
            weighted=self._weighted(call),
            makers=self._makers(call),
        )

    # -- selection

    def _kinds(self) -> dict[str, Callable[[_Call], bool]]:
        return {
            "conv": lambda call: isinstance(call.module, nn.modules.conv._ConvNd),
            "norm": lambda call: _is_norm(call.module),
            "linear": lambda call: isinstance(call.module, nn.Linear),
            "block": self._is_block,
        }

    def _select(self, selector: str | Callable[[str, nn.Module], bool]) -> list[_Call]:
        if callable(selector):
            return self._checked(lambda call: bool(selector(call.name, call.module)))
        kinds = self._kinds()
        if selector == "auto":
            return self._auto()
        if selector.startswith("last:"):
            k = selector.removeprefix("last:")
            if not k.isdecimal() or int(k) < 1:
                raise ConfigError(f"sites {selector!r}: last:k takes a whole number k >= 1, such as last:2")
            return self._auto()[-int(k) :]
        if selector in kinds:
            return self._checked(kinds[selector])
        chosen = self._checked(lambda call: fnmatchcase(call.name, selector), named=True)
        if not chosen:
            silent = [name for name, _ in self.model.named_modules() if name and fnmatchcase(name, selector)]
            if silent:
                raise ConfigError(f"module {silent[0]!r} did not run in the forward pass: it cannot be a site")
        return chosen

    def _auto(self) -> list[_Call]:
        kinds = self._kinds()
        blocks = self._usable(kinds["block"])
        if len(blocks) >= 2:
            return blocks
        norms = self._usable(kinds["norm"])
        first = norms or self._usable(kinds["conv"])
        normed = {id(t) for call in norms for t in call.inputs}
        hidden = [call for call in self._usable(kinds["linear"]) if id(call.output) not in normed]
        chosen = {id(call) for call in first + hidden}
        return [call for call in self.calls if id(call) in chosen]

    def _inner(self) -> list[tuple[int, _Call]]:
        """Calls that end before the output layer does; output layers and their own containers excluded."""
        return [(i, call) for i, call in enumerate(self.calls[: self.last]) if id(call) not in self.outer]

    def _usable(self, test: Callable[[_Call], bool]) -> list[_Call]:
        return [
            call
            for index, call in self._inner()
            if test(call) and self.times[id(call.module)] == 1 and self._axis(call, index) is not None
        ]

    def _checked(self, test: Callable[[_Call], bool], named: bool = False) -> list[_Call]:
        """Calls that pass ``test``; one that cannot be a site is an error if the person named it."""
        chosen = [call for _, call in self._inner() if test(call)]
        for call in chosen:
            if self.times[id(call.module)] > 1:
                raise ConfigError(
                    f"module {call.name!r} fires {self.times[id(call.module)]} times in one forward pass: "
                    "one mask cannot serve it; choose other sites (say 'norm' or 'conv'), or give each use a module"
                )
        if named and not chosen:
            late = [
                call.name
                for i, call in enumerate(self.calls)
                if (i >= self.last or id(call) in self.outer) and call.name and test(call)
            ]
            if late:
                raise ConfigError(f"module {late[0]!r} gives the network's output: dropout there would drop classes")
        return chosen

    def _is_block(self, call: _Call) -> bool:
        """The innermost container with weights that returns a given residual sum."""
        if not call.residual or call.module is self.model or not _holds_weights(call.module):
            return False
        # An in-place sum keeps the identity of an inner container's output, which was no sum when it returned.
        same = [c for c in self.calls if c.output is call.output and c.residual and _holds_weights(c.module)]
        return same[0] is call

    # -- what is known of a place

    def _axis(self, call: _Call, index: int) -> int | None:
        """Feature dimension of the output, from the kind of the module or of those before and after it."""
        if not isinstance(call.output, Tensor) or call.output.ndim < 2:
            return None
        shape = call.output.shape
        if (own := _own_axis(call.module)) is not None:
            return own
        if call.output.ndim == 2:
            return 1
        if shape[1] == shape[-1]:  # the sizes do not tell; who reads the output does
            readers = (_own_axis(c.module) for c in self.calls if any(t is call.output for t in c.inputs))
            if (axis := next((a for a in readers if a is not None), None)) is not None:
                return axis
        before = (c.module for c in reversed(self.calls[: index + 1]) if _features(c.module))
        layer = next(before, call.module)
        features = _features(layer)
        if features == shape[1] == shape[-1]:
            return 1 if call.output.ndim > 3 else _own_axis(layer)
        if features in (shape[1], shape[-1]):
            return 1 if features == shape[1] else -1
        return 1 if call.output.ndim > 3 else -1

    def _weighted(self, call: _Call) -> tuple[nn.Module, ...]:
        if _is_norm(call.module):
            came = {id(t) for t in call.inputs}
            sources = [c.module for c in self.calls if id(c.output) in came and _is_weighted(c.module)]
            return (*sources, call.module)
        if _is_weighted(call.module):
            return (call.module,)
        return ()

    def _makers(self, call: _Call) -> tuple[nn.Module, ...]:
        if known := self._weighted(call):
            return known
        layers = {
            c.node: c for c in self.calls if c.node is not None and (_is_norm(c.module) or _is_weighted(c.module))
        }
        # What a block adds to is made outside of it.
        own = set(call.module.modules()) if _holds_weights(call.module) else {c.module for c in layers.values()}
        found = [layers[node] for node in graph.makers(call.node, layers)]
        modules = [module for c in found if c.module in own for module in self._weighted(c)]
        return tuple(dict.fromkeys(modules))


def _own_axis(module: nn.Module) -> int | None:
    """Feature dimension of what a layer reads and returns, where its kind tells."""
    maps = nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm
    if isinstance(module, maps) or (_is_norm(module) and type(module).__name__.endswith("2d")):
        return 1
    return -1 if isinstance(module, nn.Linear | nn.LayerNorm) else None


def _features(module: nn.Module) -> int | None:
    """How many features a layer with weights returns."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    weight = getattr(module, "weight", None)
    return weight.numel() if _is_norm(module) and isinstance(weight, Tensor) else None


def _shape(output: Any) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
