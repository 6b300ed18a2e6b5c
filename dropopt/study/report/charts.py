"""The charts of a report, drawn by Matplotlib: as SVG in the page and as PNG for papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropopt.numbers import quantity
from dropopt.study.report.palette import ACCENTS, COLOURS, GRID, INK, KINDS
from dropopt.study.show import series
from dropopt.study.show.formatting import capitalised
from dropopt.study.show.snapshot import Snapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Width and height of a chart in inches.
SIZE = (7.0, 3.6)
#: Height of a row of a chart of effects, in inches.
ROW = 0.26


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: The name of its file, without suffix.
        title: Its caption.
        alt: What it shows, for people who cannot see it.
        figure: The drawing.
    """

    name: str
    title: str
    alt: str
    figure: Figure


def charts(shot: Snapshot) -> list[Chart]:
    """Every chart that the study has the data for, in the order of the report."""
    import matplotlib

    makers: tuple[Callable[[Snapshot], Chart | None], ...] = (_curves, _importance, _effects, _rates, _weights, _cost)
    with matplotlib.rc_context({"text.parse_math": False}):  # names of layers may contain dollar signs
        return [chart for make in makers if (chart := make(shot)) is not None]


def _curves(shot: Snapshot) -> Chart | None:
    found = series.curves(shot)
    if not found:
        return None
    figure, axes = _axes()
    styles = {"pruned": (0.8, "-", 0.5), "complete": (1.2, "-", 0.9), "anchor": (1.3, ":", 1), "best": (2.6, "-", 1)}
    labels = {"pruned": "pruned trials", "complete": "other good trials", "anchor": "anchors", "best": "best trial"}
    named = set()
    for curve in found:
        width, dash, alpha = styles[curve.kind]
        label = None if curve.kind in named else labels[curve.kind]
        named.add(curve.kind)
        (line,) = axes.plot(curve.epochs, curve.values, label=label, color=KINDS[curve.kind], alpha=alpha)
        line.set(linewidth=width, linestyle=dash)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{shot.metric}, {shot.scale.way}")
    if series.is_logarithmic(found):
        _logarithmic(axes)
    _whole_epochs(axes)
    _legend(axes)
    best = next((curve for curve in found if curve.kind == "best"), None)
    course = f" The best one, {best.name}, goes from {best.values[0]:.4g} to {best.values[-1]:.4g}." if best else ""
    alt = f"Line chart: {shot.metric} by epoch of {quantity(len(found), 'trial')}.{course}"
    return Chart("curves", "Learning curves of the best trials, the anchors and some pruned trials", alt, figure)


def _rates(shot: Snapshot) -> Chart | None:
    found = series.rates(shot)
    if found is None:
        return None
    figure, axes = _axes(height=max(2.4, 1.2 + ROW * len(found.names)))
    top = max(max(max(row) for row in found.rows), 0.1)
    edges = [*found.epochs, found.epochs[-1] + 1]
    mesh = axes.pcolormesh([edge - 0.5 for edge in edges], range(len(found.names) + 1), found.rows, vmin=0, vmax=top)
    axes.set_yticks([row + 0.5 for row in range(len(found.names))], found.names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("epoch")
    axes.grid(False)
    _whole_epochs(axes)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("applied drop rate", color=INK)
    bar.ax.tick_params(colors=INK)
    bar.outline.set_edgecolor(GRID)
    low, high = min(map(min, found.rows)), max(map(max, found.rows))
    alt = f"Heatmap: the drop rate of {quantity(len(found.names), 'layer')} by epoch, from {low:.3f} to {high:.3f}."
    return Chart("rates", f"Applied drop rate by layer and epoch, trial {found.trial}", alt, figure)


def _weights(shot: Snapshot) -> Chart | None:
    found = series.weights(shot)
    if found is None:
        return None
    figure, axes = _axes(height=3.0)
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(found.names))]
    axes.stackplot(found.epochs, found.rows, colors=colours, labels=found.names, alpha=0.8)
    axes.set_xlabel("epoch")
    axes.set_ylabel("share of the blend")
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    _whole_epochs(axes)
    _legend(axes)
    last = ", ".join(f"{name} {row[-1]:.2f}" for name, row in zip(found.names, found.rows, strict=True))
    return Chart(
        "blend", f"Blend by epoch, trial {found.trial}", f"Area chart: the share of each method. Last: {last}.", figure
    )


def _importance(shot: Snapshot) -> Chart | None:
    """The importance of each parameter, with its interval."""
    if shot.effects is None or not shot.effects.factors:
        return None
    shown = shot.effects.factors
    totals = [effect.importance.total for effect in shown]
    figure, axes = _intervals(
        [(e.name, t.low, t.value, t.high, COLOURS[0]) for e, t in zip(shown, totals, strict=True)]
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of the variance without noise, with its 90% interval")
    told = "; ".join(f"{e.name} {e.importance.total.value:.2f}" for e in shown)
    return Chart("importance", "Which parameter matters", f"Intervals of the importance: {told}.", figure)


def _effects(shot: Snapshot) -> Chart | None:
    """The effects of the methods of a blend."""
    if shot.learned is None or not shot.learned.trajectory:
        return None
    shown = [effect for stage in shot.learned.efficacy.methods for effect in stage]
    colours = {1: ACCENTS["good"], -1: ACCENTS["bad"], 0: INK}
    figure, axes = _intervals([(e.name, e.low, e.mean, e.high, colours[e.sign]) for e in shown])
    axes.axvline(0, color=INK, linestyle=":", linewidth=1)
    axes.set_xlabel("effect in normal scores, with its 90% interval (right of 0: better)")
    told = "; ".join(f"{e.name} {e.mean:+.2f} ({e.low:+.2f} to {e.high:+.2f})" for e in shown)
    return Chart("effects", "Effect of each method", f"Intervals: {told}.", figure)


def _cost(shot: Snapshot) -> Chart | None:
    found = series.cost(shot)
    if found is None:
        return None
    figure, axes = _axes()
    for kind in series.KINDS:
        points = [point for point in found.points if point.kind == kind]
        if points:
            x, y = [point.seconds for point in points], [point.score for point in points]
            size, alpha = (70 if kind == "best" else 18), (0.6 if kind == "pruned" else 1)
            axes.scatter(x, y, s=size, color=KINDS[kind], alpha=alpha, label=kind, linewidths=0)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(f"{found.score}, {found.way}")
    axes.set_xlim(0, 1.05 * max(point.seconds for point in found.points) or 1)
    axes.margins(y=0.1)
    _legend(axes)
    alt = f"Scatter plot: {found.score} and training time of {quantity(len(found.points), 'trial')}."
    return Chart("cost", f"{capitalised(found.score)} against cost", alt, figure)


def _intervals(rows: Sequence[tuple[str, float, float, float, str]]) -> tuple[Figure, Axes]:
    """A row for each name, low end, value, high end and colour, from the top."""
    figure, axes = _axes(height=1.2 + ROW * len(rows))
    for row, (_, low, value, high, colour) in enumerate(rows):
        axes.plot([low, high], [row, row], color=colour, linewidth=1.6)
        axes.plot([value], [row], "o", color=colour)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    return figure, axes


def _axes(height: float = SIZE[1]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", colors=INK, labelcolor=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _whole_epochs(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _logarithmic(axes: Axes) -> None:
    """A logarithmic scale with ticks at 1, 2 and 5, as plain numbers: the default ticks are formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    # Above the axes, where it hides no data.
    axes.legend(
        frameon=False, fontsize=8, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.2
    )
