"""The result of a comparison as tables, sentences and one figure."""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from dropopt.config import ConfigError
from dropopt.files import write_whole
from dropopt.numbers import fixed, quantity
from dropopt.study.confirm.comparison import ArmResult, Comparison, Compute
from dropopt.study.confirm.intervals import mean_of
from dropopt.study.confirm.results import Scores
from dropopt.study.show.confirmation import format_interval
from dropopt.study.show.console import say
from dropopt.study.show.formatting import capitalised, format_seconds
from dropopt.study.show.style import COLOURS
from dropopt.study.show.table import Table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Width of the figure's title in characters, and sizes in pixels: of a line of the title, of the figure, of an arm.
LINE, LINE_HEIGHT, WIDTH, ROW = 110, 22, 1000, 60
#: Pixels above the panels on a page, which has the title as text.
TOP = 75
#: What the colour of an arm means.
GREY = "arms without the engine in grey"
#: What the intervals do not contain.
SCOPE = "The intervals are over seeds of training. Another search of an arm may find another winner."


def show_comparison(console: Console, found: Comparison) -> None:
    """Print the arms, the differences to the reference, the notes and the verdict."""
    console.print(_arms(found))
    console.print(_contrasts(found))
    console.print(_costs(found))
    for note in found.notes:
        say(console, f"note: {note}", "yellow")
    say(console, SCOPE, "dim")
    say(console, found.verdict, "bold")


def write_figure(found: Comparison, path: Path) -> None:
    """Write the figure as HTML, or as PNG or SVG by the suffix of ``path``."""
    kind = path.suffix.removeprefix(".")
    data = _page(found).encode() if kind == "html" else figure(found).to_image(kind, scale=2)
    try:
        write_whole(path, data)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}; the result is stored: type the same command again, "
            "with another -o FILE"
        ) from None


def _page(found: Comparison) -> str:
    """The figure as a page that needs no network, as wide as the window. The verdict is text, which wraps."""
    picture = figure(found)
    height = picture.layout.height - picture.layout.margin.t + TOP
    picture.update_layout(title=None, width=None, autosize=True, height=height, margin={"t": TOP})
    drawing = picture.to_html(full_html=False, include_plotlyjs=True, config={"responsive": True})
    names = ", ".join(arm.name for arm in found.arms)
    title = html.escape(f"Comparison of {names}")
    verdict = html.escape(f"{capitalised(found.verdict)}.")
    alt = html.escape(f"Loss and {found.score} of {names}: means with 95% intervals. {found.verdict}", quote=True)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>\n'
        '<body style="margin: 1.5rem; font: 16px/1.5 system-ui, sans-serif; background: #fff; color: #2a3f5f">\n'
        f'<h1 style="font-size: 1.4rem">{title}</h1>\n<p>{verdict}</p>\n'
        f"<p>{quantity(found.seeds, 'fresh seed')}; means with 95% intervals, and a point for each seed; {GREY}. "
        f"{SCOPE}</p>\n"
        f'<div role="img" aria-label="{alt}">{drawing}</div>\n</body></html>\n'
    )


def check_figure(path: Path) -> None:
    """Raise :class:`ConfigError` if a figure cannot be written to ``path``, before the work begins."""
    if path.suffix not in (".html", ".png", ".svg"):
        raise ConfigError(f"the figure must be a .html, .png or .svg file, got {path}")
    if path.suffix != ".html" and find_spec("kaleido") is None:
        raise ConfigError(
            f"a {path.suffix} figure needs the package kaleido (pip install kaleido); or give a .html file"
        )


def figure(found: Comparison) -> Figure:
    """Loss and accuracy of each arm: the mean with its 95% interval, and a point for each seed."""
    from plotly.subplots import make_subplots

    split = found.split
    measures = {"loss": f"{split} loss<br>(lower is better)"}
    if found.score != "loss":
        measures["accuracy"] = f"{split} {found.score}<br>({'higher' if found.task.higher else 'lower'} is better)"
    picture = make_subplots(
        rows=1,
        cols=len(measures),
        shared_yaxes=True,
        subplot_titles=list(measures.values()),
        horizontal_spacing=0.04,
    )
    names = [arm.name for arm in found.arms]
    for column, measure in enumerate(measures, start=1):
        for index, arm in enumerate(found.arms):
            _add_arm(picture, arm.name, getattr(_scores(found, arm), measure), index, column, baseline=arm.baseline)
    lines = textwrap.wrap(found.verdict, LINE)
    title = f"{quantity(found.seeds, 'fresh seed')}, 95% intervals; {GREY}<br><sub>{'<br>'.join(lines)}</sub>"
    picture.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6])
    picture.update_annotations(font={"size": 13})
    top = 125 + LINE_HEIGHT * len(lines)
    margin = {"t": top, "l": 20, "r": 20, "b": 40}
    height = top + 40 + ROW * len(names)
    return picture.update_layout(title=title, width=WIDTH, height=height, margin=margin, template="plotly_white")


def _add_arm(picture: Figure, name: str, values: Mapping[int, float], row: int, column: int, *, baseline: bool) -> None:
    colour = "grey" if baseline else COLOURS[0]
    seeds = list(values.values())
    mean = mean_of(seeds)
    half = (mean.high - mean.low) / 2 if mean.n > 1 else 0.0
    points = {"size": 5, "color": colour, "opacity": 0.4}
    hover = [f"{name}, seed {seed + 1}: %{{x:.4f}}<extra></extra>" for seed in values]
    heights = [row + 0.18] * len(seeds)
    picture.add_scatter(
        x=seeds, y=heights, mode="markers", marker=points, hovertemplate=hover, showlegend=False, row=1, col=column
    )
    picture.add_scatter(
        x=[mean.mean],
        y=[row],
        mode="markers",
        marker={"size": 10, "color": colour},
        error_x={"type": "data", "array": [half]},
        hovertemplate=f"{name}: %{{x:.4f}} +- {half:.4f}<extra></extra>",
        showlegend=False,
        row=1,
        col=column,
    )


def _scores(found: Comparison, arm: ArmResult) -> Scores:
    return arm.test if found.tested and arm.test is not None else arm.winner.validation


def _arms(found: Comparison) -> Table:
    title = f"{quantity(found.seeds, 'fresh seed')}, {found.split} split (means, 95% intervals; * without the engine)"
    shown = {"loss": "loss"} | ({} if found.score == "loss" else {"accuracy": found.score})
    if any(_scores(found, arm).ece for arm in found.arms):  # classification
        shown["ece"] = "ECE"
    table = Table("arm", *shown.values(), title=title)
    short = _short(found)
    for arm in found.arms:
        cells = [_cell(getattr(_scores(found, arm), measure)) for measure in shown]
        table.add_row(short[arm.name] + "*" * arm.baseline, *cells)
    return table


def _costs(found: Comparison) -> Table:
    scale, heading = found.scale, f"validation {found.scale.name}"
    table = Table("arm", heading, "search", "confirm", title="validation and cost")
    short = _short(found)
    for arm in found.arms:
        table.add_row(short[arm.name], format_interval(arm.winner.mean, scale), *map(_cost, (arm.search, arm.confirm)))
    return table


def _contrasts(found: Comparison) -> Table:
    scale = found.scale
    short = _short(found)
    reference = short.get(found.reference, found.reference)
    title = f"differences to {reference}, paired by seed (95% intervals; p after Holm's correction)"
    table = Table(
        "arm", f"{found.split} {scale.name}", "p", *([found.score] * (found.score != scale.name)), title=title
    )
    for one in found.contrasts:
        gap = one.objective.interval
        other = None if one.accuracy is None else one.accuracy.interval
        cells = [_signed(scale.change(gap.mean), *scale.changes(gap.low, gap.high)), f"{one.p_adjusted:.2g}"]
        if found.score != scale.name:
            cells.append("-" if other is None else _signed(other.mean, other.low, other.high))
        table.add_row(short[one.arm], *cells)
    return table


def _short(found: Comparison) -> dict[str, str]:
    """The names of the arms without the words that all of them begin with."""
    names = [arm.name for arm in found.arms]
    cut = os.path.commonprefix(names).rfind("-") + 1 if len(names) > 1 else 0  # noqa: RUF071  # names are no paths
    return {name: name[cut:] or name for name in names}


def _signed(mean: float, low: float, high: float) -> str:
    middle, *ends = fixed(mean, low, high, sign=True)
    return f"{middle} ({' to '.join(ends)})"


def _cell(values: Mapping[int, float]) -> str:
    return format_interval(mean_of(list(values.values()))) if values else "-"


def _cost(spent: Compute) -> str:
    return f"{quantity(spent.trials, 'trial')}, {format_seconds(spent.seconds)}"
