"""The result of a comparison as tables, sentences and one figure."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from dropopt.config import ConfigError
from dropopt.study.confirm.comparison import Comparison, Compute
from dropopt.study.confirm.intervals import mean_of
from dropopt.study.show.confirmation import format_interval
from dropopt.study.show.console import say
from dropopt.study.show.formatting import format_seconds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Width of the figure's title in characters, and sizes in pixels: of a line of the title, of the figure, of an arm.
LINE, LINE_HEIGHT, WIDTH, ROW = 110, 22, 1000, 60


def show_comparison(console: Console, found: Comparison) -> None:
    """Print the arms, the differences to the reference, the notes and the verdict."""
    console.print(_arms(found))
    console.print(_contrasts(found))
    console.print(_costs(found))
    for note in found.notes:
        say(console, f"note: {note}", "yellow")
    say(console, found.verdict, "bold")


def write_figure(found: Comparison, path: Path) -> None:
    """Write the figure as HTML, or as PNG or SVG by the suffix of ``path``."""
    picture = figure(found)
    try:
        if path.suffix == ".html":
            picture.write_html(path)
        else:
            picture.write_image(path, scale=2)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


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

    split = "test" if found.tested else "validation"
    titles = (f"{split} loss (lower is better)", f"{split} accuracy (higher is better)")
    picture = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    names = [arm.name for arm in found.arms]
    cut = 0
    for place, letters in enumerate(zip(*names, strict=False), start=1):
        if len(set(letters)) > 1 or len(names) == 1:
            break
        cut = place if letters[0] == "-" else cut
    return {name: name[cut:] or name for name in names}


def _signed(mean: float, low: float, high: float) -> str:
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _cell(values: Mapping[int, float]) -> str:
    if not values:
        return "-"
    mean = mean_of(list(values.values()))
    return format_interval(mean.mean, mean.low, mean.high)


def _cost(spent: Compute) -> str:
    return f"{spent.trials} trials, {format_seconds(spent.seconds)}"
