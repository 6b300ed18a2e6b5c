"""Tables that remain readable on a narrow terminal."""

from __future__ import annotations

import rich.table
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement

#: Columns of a terminal below which tables have no lines between their columns.
NARROW = 72


class Table(rich.table.Table):
    """A table of ``rich``. On a narrow terminal it has no lines between columns, and text is wrapped, not cut off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._fit(options)
        return super().__rich_console__(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        self._fit(options)
        return super().__rich_measure__(console, options)

    def _fit(self, options: ConsoleOptions) -> None:
        if options.max_width < NARROW:
            self.box, self.show_edge, self.padding = box.SIMPLE_HEAD, False, (0, 0)
            for column in self.columns:
                column.overflow = "fold"
