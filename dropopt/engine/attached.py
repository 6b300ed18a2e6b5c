"""Attached: what every engine has in common, a model with hooks that come off again."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch import nn
from torch.utils.hooks import RemovableHandle


class Attached:
    """A context manager that holds hooks on a model and removes them on exit, also after an exception.

    Attributes:
        model: the model that the hooks are on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._handles: list[RemovableHandle] = []

    def detach(self) -> None:
        """Remove every hook, which leaves the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
