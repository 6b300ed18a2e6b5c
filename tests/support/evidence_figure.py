"""The figure of the evidence: how far each arm's confirmed test loss is from that of Dropout2d, on each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import matplotlib as mpl
from evidence_results import ARMS, DATA, REFERENCE, Outcome
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dropopt.study.confirm.intervals import Interval, holm, mean_of, paired

#: Panels in a row.
COLUMNS = 3
#: Adjusted p values below this one are shown as a difference.
SIGNIFICANT = 0.05
#: Colours of Okabe and Ito for better, worse and not clearly different.
BETTER, WORSE, UNCLEAR, INK, GRID = "#0072b2", "#d55e00", "#6e7781", "#24292f", "#d0d7de"


@dataclass(frozen=True)
class Row:
    """An arm on a data set: its test loss minus that of the reference, in percent of the reference's mean loss."""

    arm: str
    baseline: bool
    difference: Interval
    #: The p value of the difference, adjusted for the number of arms on the data set (Holm).
    p: float = 1.0

    @property
    def colour(self) -> str:
        """Whether the loss is clearly lower or higher, as a colour."""
        if self.p >= SIGNIFICANT:
            return UNCLEAR
        return BETTER if self.difference.mean < 0 else WORSE


@dataclass(frozen=True)
class Panel:
    """The arms on one data set."""

    data: str
    #: The mean test loss of the reference.
    reference: float
    rows: tuple[Row, ...]


def panels(found: Mapping[str, Mapping[str, Outcome]]) -> list[Panel]:
    """The data sets on which the reference and another arm were confirmed, from :func:`evidence_results.confirmed`."""
    return [one for data, arms in found.items() if (one := _panel(data, arms)) is not None]


def _panel(data: str, arms: Mapping[str, Outcome]) -> Panel | None:
    reference = arms.get(REFERENCE)
    if reference is None:
        return None
    level = mean_of(list(reference.test.objective.values())).mean
    rows, p_values = [], []
    for arm in [*ARMS, *sorted(arms.keys() - ARMS.keys())]:
        if arm == REFERENCE or arm not in arms:
            continue
        difference = paired(arms[arm].test.objective, reference.test.objective)
        if difference is not None:
            gap = difference.interval
            percent = Interval(100 * gap.mean / level, 100 * gap.low / level, 100 * gap.high / level, gap.n)
            rows.append(Row(arm, arms[arm].baseline, percent))
            p_values.append(difference.p)
    adjusted = [replace(row, p=p) for row, p in zip(rows, holm(p_values), strict=True)]
    return Panel(data, level, tuple(adjusted)) if adjusted else None


def draw(found: Sequence[Panel]) -> Figure:
    """Draw a panel for each data set, with the same arms in each."""
    names = [arm for arm in ARMS if any(arm == row.arm for panel in found for row in panel.rows)]
    names += sorted({row.arm for panel in found for row in panel.rows} - set(names))
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    size = (2.6 + 2.7 * columns, 0.6 + rows * (0.9 + 0.34 * len(names)))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, axis in zip_longest(found, axes.flat):
        if panel is None:
            axis.set_axis_off()
        else:
            _draw_panel(panel, axis, names)
    axes[0, 0].set_yticks(range(len(names)), [ARMS.get(name, name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("test loss compared with tuned Dropout2d (means and 95% intervals over fresh seeds)", size=9)
    figure.legend(handles=_legend(found), loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _draw_panel(panel: Panel, axis: Axes, names: Sequence[str]) -> None:
    axis.axvline(0, color=INK, linewidth=1)
    for row in panel.rows:
        gap, place = row.difference, names.index(row.arm)
        axis.plot([gap.low, gap.high], [place, place], color=row.colour, linewidth=2, solid_capstyle="butt")
        axis.plot([gap.mean], [place], marker="s" if row.baseline else "o", color=row.colour, markersize=6)
        text = f"{gap.mean:+.1f}%".replace("-", "\N{MINUS SIGN}")
        own = {"size": 7, "color": INK, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
        axis.annotate(text, (gap.mean, place), (0, 6), textcoords="offset points", ha="center", **own)
    for missing in set(names) - {row.arm for row in panel.rows}:
        axis.annotate(
            "not confirmed", (0, names.index(missing)), (4, 0), textcoords="offset points", va="center", size=7
        )
    seeds = sorted({row.difference.n for row in panel.rows})
    axis.set_title(f"{DATA.get(panel.data, panel.data)}\nn = {' or '.join(map(str, seeds))} seeds", size=9)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:+g}%".replace("-", "\N{MINUS SIGN}") if value else "0")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, length=0)
    axis.margins(x=0.12)
    axis.spines[:].set_visible(False)


def _legend(found: Sequence[Panel]) -> list[Line2D]:
    def line(label: str, colour: str, marker: str = "", width: float = 2) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linewidth=width, label=label, markersize=6)

    kinds = {BETTER: "lower loss", WORSE: "higher loss", UNCLEAR: "not clearly different"}
    used = {row.colour for panel in found for row in panel.rows}
    return [
        *(line(label, colour) for colour, label in kinds.items() if colour in used),
        line("engine", INK, "o", 0),
        line("plain dropout or none", INK, "s", 0),
    ]


def save(results: Mapping[str, Mapping[str, Outcome]], path: Path) -> list[Panel]:
    """Write the figure of the confirmed ``results``; the format is that of the suffix of ``path``."""
    found = panels(results)
    if not found:
        raise SystemExit(f"no data set has {REFERENCE} and another arm confirmed and tested")
    text = {"svg.fonttype": "path", "svg.hashsalt": "dropopt", "text.color": INK, "axes.labelcolor": INK}
    with mpl.rc_context({**text, "xtick.color": INK, "ytick.color": INK, "font.family": "DejaVu Sans"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        draw(found).savefig(path, dpi=200, metadata=metadata)
    return found
