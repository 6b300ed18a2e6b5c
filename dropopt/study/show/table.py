"""Tables that remain readable on a narrow terminal."""

from __future__ import annotations

import rich.table
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

#: Columns of a terminal below which tables have no lines between their columns.
NARROW = 72
#: Letters that a word keeps together in a column; only longer ones may be cut into pieces.
TOGETHER = 10


class Table(rich.table.Table):
    """A table of ``rich``. On a narrow terminal it has no lines between columns, and text is wrapped, not cut off.

    Where even words would be cut into pieces, each cell is a line of its own after the heading of its column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._fit(options)
        if options.max_width < NARROW and self.show_header and self._least(console, options) > options.max_width:
            return self._lines(console, options)
        return super().__rich_console__(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        self._fit(options)
        return super().__rich_measure__(console, options)

    def _fit(self, options: ConsoleOptions) -> None:
        if options.max_width < NARROW:
            self.box, self.show_edge, self.padding = box.SIMPLE_HEAD, False, (0, 0)
            for column in self.columns:
                column.overflow = "fold"

    def _least(self, console: Console, options: ConsoleOptions) -> int:
        """Return the width at which no word of :data:`TOGETHER` letters or fewer is cut."""
        measured = [self._measure_column(console, options, column).minimum for column in self.columns]
        return sum(min(TOGETHER, width) for width in measured) + len(measured) - 1

    def _lines(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def text(given: object) -> Text:
            return given if isinstance(given, Text) else console.render_str(str(given), markup=options.markup)

        if self.title:
            yield text(self.title)
        for row in zip(*(column.cells for column in self.columns), strict=True):
            for column, cell in zip(self.columns, row, strict=True):
                heading = " ".join(text(column.header).plain.split())
                yield Text.assemble(heading, ": " if heading else "", text(cell))
            yield ""
