"""A Matplotlib figure as SVG inside an HTML page: it follows the page's colours and width, and names no other site."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from dropopt.study.report.palette import VARIABLES

if TYPE_CHECKING:
    from dropopt.study.report.charts import Chart


def inline(chart: Chart) -> str:
    """The chart as an ``<svg>`` element with a text alternative."""
    import matplotlib

    file = io.StringIO()
    # Text stays text. The salt makes the ids of a chart the same in every run and different from other charts'.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.name, "font.family": "sans-serif"}):
        chart.figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # The style of an inline element would hold for the whole page, which has its own. The metadata have a date.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    # An inline element needs no namespaces, and a fixed size would not fit a phone.
    opening = f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(chart.alt)}">'
    text = opening + f"<title>{html.escape(chart.alt)}</title>" + text[text.index(">") + 1 :]
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(\bid="|href="#|url\(#)([\w.]+)', rf"\1{chart.name}-\2", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    for colour, (variable, _) in VARIABLES.items():
        text = re.sub(re.escape(colour), f"var(--{variable})", text, flags=re.IGNORECASE)
    return text
