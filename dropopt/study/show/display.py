"""Lines that are redrawn in place on a terminal, for progress."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

#: Redraws per second. Redrawing takes processor time from the trials.
REFRESH = 2


class Display:
    """Shows lines in place while its block runs. In a pipe or a file it shows nothing.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether lines are shown in place."""
        return self._live is not None

    @property
    def is_due(self) -> bool:
        """Whether the lines were drawn long enough ago to be drawn again, at most :data:`REFRESH` times per second."""
        return self.is_live and time.monotonic() - self._drawn >= 1 / REFRESH

    def draw(self, lines: RenderableType) -> None:
        """Replace the lines."""
        self._drawn = time.monotonic()
        if self._live is not None:
            self._live.update(lines, refresh=True)
