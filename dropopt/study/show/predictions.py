"""Predictions as a table, for ``dropopt predict``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.text import Text

from dropopt.study.show.console import say
from dropopt.study.show.table import Table

if TYPE_CHECKING:
    from dropopt.standalone.model import Prediction


def show_predictions(console: Console, predictions: Sequence[Prediction]) -> None:
    """Print one row for each image, with uncertainties if there were samples, and below the table what to note.

    The folder that all images lie in is the title of the table, so that their names fit on a line of 80 characters.
    """
    folder = _common_folder([one.image for one in predictions])
    console.print(_table(predictions, folder))
    for one in predictions:
        if one.note:
            say(console, f"note: {one.image}: {one.note}", "yellow")


def _table(predictions: Sequence[Prediction], folder: str) -> Table:
    sampled = any(one.mutual_information is not None for one in predictions)
    title = Text(f"images in {folder}") if folder else None
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    shown.add_column("image", overflow="fold")
    shown.add_column("class", overflow="fold")
    # The numbers keep their width: only names are broken into lines.
    shown.add_column("probability", justify="right", no_wrap=True)
    if sampled:
        shown.add_column("entropy", justify="right", no_wrap=True)
        shown.add_column("mutual\ninformation", justify="right", no_wrap=True)
    for one in predictions:
        image = os.path.relpath(one.image, folder) if folder else one.image
        row: list[str | Text] = [Text(image), Text(one.label), f"{one.probability:.4f}"]
        if sampled:
            row += [f"{one.entropy:.4f}", f"{one.mutual_information:.4f}"]
        shown.add_row(*row)
    return shown


def _common_folder(images: Sequence[str]) -> str:
    """The folder of all images, with its separator; empty if there is none."""
    folder = ""
    if images:
        with suppress(ValueError):  # absolute and relative names have none
            folder = os.path.commonpath([os.path.dirname(image) for image in images])
    return os.path.join(folder, "") if folder else ""
