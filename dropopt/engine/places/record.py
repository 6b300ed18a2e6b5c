"""A recorded forward pass: which modules ran, in which order, and on which inputs."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from dropopt.config import ConfigError
from dropopt.engine.places import graph
from dropopt.engine.places.functional import DropoutFunctions, FunctionCall
from dropopt.engine.places.layers import feature_count, is_adapted, is_convolution, is_norm, is_weighted
from dropopt.engine.places.place import Example
from dropopt.inputs import each, parts, run_model
from dropopt.modules import in_eval_mode


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module. Inputs and output are kept alive so that their identities stay unique."""

    index: int  # in order of return
    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    output: Any
    residual: bool  # the output is the sum of two branches
    node: Any  # of autograd's graph, when the module returned: a later in-place operation gives the output another


class Forward:
    """All module calls of one forward pass of ``model``, in the order in which they returned.

    Raises:
        ConfigError: if no convolution or linear layer ran.
    """

    def __init__(self, model: nn.Module, calls: list[Call], dropped: list[FunctionCall], unrun: list[str]) -> None:
        self.model = model
        #: The calls of dropout functions, also those of dropout layers.
        self.dropped = dropped
        #: The names of the largest parts with a convolution or a normalisation layer of which nothing ran.
        self.unrun = unrun
        self.calls = calls
        self._times = Counter(id(call.module) for call in calls)
        weighted = [call for call in calls if is_weighted(call.module)]
        if not weighted:
            raise ConfigError(f"model {type(model).__name__} runs no convolution or linear layer to put dropout after")
        #: The last weighted layer, which gives the network's output.
        self.last = weighted[-1]
        # A network may have several heads: other layers may give outputs as well.
        heads = [calls[-1].output, *self._auxiliary()]
        outer = graph.outermost(heads, {call.node for call in weighted} - {None})
        self._outer = {call.index for call in calls[: self.last.index] if call.node in outer}
        # Weighted layers that have run when call i returns; containers return after their children.
        self._done = list(itertools.accumulate(int(is_weighted(call.module)) for call in calls))

    def _auxiliary(self) -> list[Tensor]:
        """Return the outputs of heads that are used in training only, such as an early exit of deep supervision.

        The network computes them in eval mode too, but does not return them: nothing depends on them, and the layer
        that makes them has as many features as the one that gives the network's output.
        """
        nodes = {node for call in self.calls for node in _nodes(call.output)}
        used = graph.feeding(nodes) | set(_nodes(self.calls[-1].output))
        layers = {call.node: call for call in self.calls if call.node is not None and is_weighted(call.module)}
        classes = feature_count(self.last.module)

        def is_head(call: Call) -> bool:
            makers = graph.makers(call.node, layers) if call.node not in used else []
            return bool(makers) and all(feature_count(layers[node].module) == classes for node in makers)

        return [call.output for call in self.calls if call.node is not None and is_head(call)]

    def times(self, call: Call) -> int:
        """Return how many times the module of ``call`` ran."""
        return self._times[id(call.module)]

    def is_inner(self, call: Call) -> bool:
        """Whether the call returns before the output layers do; false for these and for their own containers."""
        return call.index < self.last.index and call.index not in self._outer

    def depth(self, call: Call) -> float:
        """Return the fraction of the weighted layers that have run when the call returns, in (0, 1]."""
        return max(1, self._done[call.index]) / self._done[-1]


def _nodes(output: Any) -> list[Any]:
    """Return the nodes of autograd's graph that made the tensors of a module's output."""
    return [tensor.grad_fn for tensor in graph.tensors(output) if tensor.grad_fn is not None]


def record(model: nn.Module, example: Example) -> Forward:
    """Run ``model`` once on ``example`` in eval mode and record every module call; the model is left as it was."""
    calls: list[Call] = []
    functions = DropoutFunctions()
    sums: set[Any] = set()

    def begin(name: str) -> Callable[..., None]:
        return lambda module, args: functions.running.append((name, module))

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            functions.running.pop()
            inputs = tuple(a for a in args if isinstance(a, Tensor))
            node = getattr(output, "grad_fn", None)
            if is_adapted(module):  # its sum is no residual one
                sums.add(node)
            residual = isinstance(output, Tensor) and graph.is_residual(node, sums)
            calls.append(Call(len(calls), name, module, inputs, output, residual, node))

        return hook

    # Parametrisations (spectral norm, weight norm, low-rank updates) return weights, not activations. What is inside
    # an adapted layer returns parts of its features.
    lists = [module for module in model.modules() if isinstance(module, ParametrizationList)]
    not_layers = {id(part) for found in lists for part in found.modules()}
    for layer in filter(is_adapted, model.modules()):
        not_layers |= {id(part) for part in layer.modules() if part is not layer}
    handles = []
    try:
        for name, module in model.named_modules():
            if id(module) not in not_layers:
                handles.append(module.register_forward_pre_hook(begin(name)))
                handles.append(module.register_forward_hook(note(name)))
        with quiet(model), functions, torch.inference_mode(False), torch.enable_grad():
            # Inputs require a gradient, so that residual sums show in the graph even if all weights are frozen. The
            # clones protect the example from in-place operations.
            run_model(model, copied(model, example))
    except Exception as error:
        error.add_note(
            f"dropopt ran the model on the example, {_described(example)}, to find its layers: give a batch as in "
            "training, such as example=images[:2]"
        )
        raise
    finally:
        for handle in handles:
            handle.remove()
    return Forward(model, calls, functions.calls, _unrun(model, {call.name for call in calls}, not_layers))


def _described(example: Example) -> str:
    """The shapes and types of the tensors of ``example``: ``(2, 1, 28, 28) of float32``."""
    found = parts(example).values()
    return ", ".join(f"{tuple(part.shape)} of {str(part.dtype).removeprefix('torch.')}" for part in found)


def _unrun(model: nn.Module, ran: Collection[str], not_layers: Collection[int]) -> list[str]:
    """Return the names of the largest parts with a convolution or a normalisation layer of which nothing ran.

    Linear layers do not count: some, such as those of ``nn.MultiheadAttention``, are used without being called.
    """
    alive = {".".join(parts[:end]) for parts in (name.split(".") for name in ran) for end in range(len(parts) + 1)}
    found: dict[str, None] = {}
    for name, module in model.named_modules():
        if name not in alive and id(module) not in not_layers and (is_convolution(module) or is_norm(module)):
            parts = name.split(".")
            found[next(part for part in itertools.accumulate(parts, "{}.{}".format) if part not in alive)] = None
    return list(found)


def copied(model: nn.Module, images: Example) -> Example:
    """Return copies on the model's device, in its type, so that no operation of the model changes the originals."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))

    def copy(part: Tensor) -> Tensor:
        # A tensor of inference mode has no gradient, but its copy has.
        copied = part.detach().to(like if part.is_floating_point() else like.device).clone()
        floating = part.is_floating_point() and torch.is_grad_enabled()
        return copied.requires_grad_().clone() if floating else copied

    return each(copy, images)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a block with ``model`` in eval mode; restore every training flag and the random state afterwards.

    DistributedDataParallel passes its inputs on: it would expect a backward pass after each forward pass. Weights of
    FSDP2 are parts again afterwards: an optimizer made of whole ones would train none of them.
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    wrappers = [module for module in model.modules() if isinstance(module, nn.parallel.DistributedDataParallel)]
    with in_eval_mode(model), torch.random.fork_rng(devices=sorted(devices, key=str)):
        for wrapper in wrappers:
            wrapper.__dict__["forward"] = wrapper.module.__call__
        try:
            yield
        finally:
            for wrapper in wrappers:
                del wrapper.__dict__["forward"]
            sharding = sys.modules.get("torch.distributed.fsdp")  # loading it takes two seconds
            for module in model.modules():
                if isinstance(module, getattr(sharding, "FSDPModule", ())):
                    cast("Any", module).reshard()


def device_of(module: nn.Module, default: torch.device | None = None) -> torch.device:
    """Return the device of the module's first parameter; ``default``, or the CPU, where it has none."""
    return next((p.device for p in module.parameters()), default or torch.device("cpu"))
