"""The colours of a report.

Charts are drawn in the light colours; the page replaces them by variables of its style sheet.
"""

from __future__ import annotations

#: Text and axes, and lines of the grid.
INK, GRID = "#24292f", "#d0d7de"
#: The palette of Okabe and Ito, whose colours colour-blind people can distinguish, without its yellow.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
#: A kind of trial.
KINDS = {"pruned": "#a0a0a0", "complete": COLOURS[4], "anchor": COLOURS[1], "best": COLOURS[5]}
#: An effect whose interval excludes 0.
ACCENTS = {"good": COLOURS[2], "bad": COLOURS[5]}

#: The variable of the style sheet for each colour, and its value on a dark page.
VARIABLES = {
    INK: ("ink", "#e6edf3"),
    GRID: ("grid", "#3d444d"),
    COLOURS[0]: ("blue", "#4aa3df"),
    COLOURS[1]: ("orange", "#f0b429"),
    COLOURS[2]: ("green", "#2ec49a"),
    COLOURS[3]: ("pink", "#dd93bc"),
    COLOURS[4]: ("sky", "#7cc8f2"),
    COLOURS[5]: ("red", "#f0803c"),
    KINDS["pruned"]: ("muted", "#8b949e"),
}
