"""The first card on a study's page in optuna-dashboard: what was searched and found, in words.

The page shows a study's note only on a tab of its own. A figure is shown at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dropopt.study.show.style import GRID, INK, escaped, layout

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Characters of a cell, which are enough for an answer about all settings of the paper. Plotly draws its text slowly.
CHARACTERS = 1000


def card(name: str, lines: Sequence[tuple[str, str]]) -> Figure:
    """A table of words and texts, which wraps and scrolls."""
    from plotly.graph_objects import Figure, Table

    texts = [text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…" for _, text in lines]
    clear = "rgba(0,0,0,0)"
    picture = Figure(
        Table(
            columnwidth=[1, 5],
            header={"values": ["", ""], "height": 0, "line": {"width": 0}, "fill": {"color": clear}},
            cells={
                "values": [[f"<b>{escaped(word)}</b>" for word, _ in lines], [escaped(text) for text in texts]],
                "align": "left",
                "height": 22,
                "font": {"size": 12, "color": INK},
                "fill": {"color": clear},
                "line": {"color": GRID, "width": [0, 0]},
            },
        )
    )
    settings = layout(f"Study {name}")
    del settings["height"]  # that of the page, which may give the card more room
    settings["margin"] = {"t": 40, "b": 10, "l": 10, "r": 10}
    return picture.update_layout(settings)
