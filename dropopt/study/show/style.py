"""What the dashboard's figures have in common: colours, sizes and titles."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

#: Height of a card on the dashboard, in pixels.
HEIGHT = 450
#: Width of a narrow card in characters of its subtitle, and height of a line of the subtitle in pixels.
LINE, LINE_HEIGHT = 54, 15
#: The palette of Okabe and Ito, whose colours colour-blind people can distinguish.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
#: The colour of each kind of trial.
KIND_COLOURS = {"pruned": "#A0A0A0", "complete": "#56B4E9", "anchor": "#E69F00", "best": "#D55E00"}
#: Text and lines that can be read on the light and on the dark page.
INK, GRID = "#777777", "rgba(128,128,128,0.25)"

#: Buttons that are left out: on a narrow page all of them would cover the title.
BUTTONS = ("zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale")
#: Up to so many epochs, each has a tick.
TICKS = 12


def layout(title: str, subtitle: str = "") -> dict[str, Any]:
    """The settings that all figures share. No template: its JSON would be larger than the figure."""
    lines = textwrap.wrap(subtitle, LINE)
    text = f"{escaped(title)}<br><sub>{'<br>'.join(map(escaped, lines))}</sub>" if lines else escaped(title)
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    clear = "rgba(0,0,0,0)"
    return {
        "title": {"text": text, "font": {"size": 16}, "x": 0.02, "xanchor": "left", "y": 0.97, "yanchor": "top"},
        "height": HEIGHT,
        "margin": {"t": 50 + LINE_HEIGHT * len(lines), "b": 50, "l": 60, "r": 20},
        "template": "none",
        "font": {"color": INK, "family": "sans-serif"},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "xaxis": axis,
        "yaxis": dict(axis),
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.24, "x": 0},
        "modebar": {"bgcolor": clear, "color": "#BBBBBB", "activecolor": INK, "remove": list(BUTTONS)},
    }


def error_bars(estimates: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """The intervals around values; each is a value, its lower end and its upper end."""
    above, below = [high - value for value, _, high in estimates], [value - low for value, low, _ in estimates]
    return {"type": "data", "symmetric": False, "color": INK, "array": above, "arrayminus": below}


def epoch_axis(last: int) -> dict[str, Any]:
    """The settings of an axis of epochs, whose ticks are whole numbers."""
    return {"title": "epoch"} | ({"dtick": 1} if last <= TICKS else {})


def escaped(text: str) -> str:
    """Text that Plotly shows as it is: it understands a few tags of HTML."""
    return html.escape(text, quote=False)


def logarithmic_axis(values: Iterable[float]) -> dict[str, Any]:
    """Properties of a logarithmic axis of ``values`` whose ticks are numbers in full: Plotly writes 2 for 0.02.

    The ticks are powers of ten, and multiples of these if there would be few.
    """
    low, high = min(known := list(values)), max(known)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high < 50 * low else (1, 3) if high < 1000 * low else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
