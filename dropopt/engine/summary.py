"""Tables as plain text: what an engine drops at which places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dropopt.config import METHODS
from dropopt.engine.places.place import Place


def place_table(places: Mapping[str, Place], rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the lines of a table with one row per place.

    Args:
        places: the places by name.
        rows: the rows of ``engine.rates()``.
        columns: the keys of ``rows`` to show after the place, its module, the shape of its output and its depth.
    """
    cells = [("place", "module", "output", "depth", *columns)]
    for row in rows:
        place = places[row["site"]]
        shape = " x ".join(str(side) for side in place.shape)
        numbers = (f"{row[column]:.3f}" for column in columns)
        cells.append((row["site"], type(place.module).__name__, shape, f"{row['depth']:.2f}", *numbers))
    return aligned(cells, left=3)


def method_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table with one row per method: its efficacy weight, and its mean rate over the places."""
    cells = [("method", "weight", "mean rate")]
    for method in METHODS:
        rate = sum(row[method] for row in rows) / len(rows)
        cells.append((method, f"{rows[0][f'w_{method}']:.3f}", f"{rate:.3f}"))
    return aligned(cells, left=1)


def aligned(cells: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Return one line per row; the first ``left`` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = (
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded))
    return lines
