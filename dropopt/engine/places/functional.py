"""Dropout that a network applies by a function in its forward method, such as ``F.dropout``, instead of by a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dropopt.engine.places.layers import is_adapted

#: The functions that drop features; each takes (input, p).
_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """One call of a dropout function."""

    function: str
    p: float  # drop probability, in [0, 1]
    input: Tensor
    name: str  # of the module that made the call
    module: nn.Module


class DropoutFunctions(TorchFunctionMode):
    """A context that notes the calls of dropout functions, which networks make in eval mode as well.

    Calls in an adapted layer are left out: they drop inputs of its low-rank update, and none of its features.

    Attributes:
        calls: The calls so far.
        running: The names and modules whose forward methods have begun and not returned, the innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[FunctionCall] = []
        self.running: list[tuple[str, nn.Module]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _FUNCTIONS and self.running and not is_adapted(self.running[-1][1]):
            p = args[1] if len(args) > 1 else named.get("p", 0.5)
            self.calls.append(FunctionCall(func.__name__, p, args[0], *self.running[-1]))
        return func(*args, **named)
