"""What every engine has in common: hooks that come off, on exit even after a failure."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class Attached:
    """A context manager around the hooks in ``_handles``."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def detach(self) -> None:
        """Take every hook off: the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
