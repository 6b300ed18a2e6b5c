"""Place: a module whose output can be masked, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dropopt.inputs import Inputs

#: An input batch; a tuple or a dictionary where the model takes several arguments.
Example = Inputs
#: The setting ``sites``, or a function (name, module) -> bool.
Selector = str | tuple[str, ...] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Place:
    """A module whose output can be masked."""

    name: str
    module: nn.Module
    axis: int  # dimension of the features: 1 (N, C, ...) or -1 (N, ..., C)
    features: int  # C
    ndim: int  # dimensions of the output, batch included
    depth: float  # fraction of the weighted layers that have run when the module returns, in (0, 1]
    weighted: tuple[nn.Module, ...]  # layers whose output features these are: a norm, and the convolution before it
    makers: tuple[nn.Module, ...] = ()  # as `weighted`; for a sum or an activation, the layers that feed it
    shape: tuple[int, ...] = ()  # of the output for one sample, with the example that the engine was attached with
    reshapes: bool = False  # the output has another shape than the module's input, so it cannot be replaced by it

    @property
    def batch_ndim(self) -> int:
        """The fewest dimensions of a batch. Features on the last dimension may have any number of others before it."""
        return self.ndim if self.axis == 1 else 2
