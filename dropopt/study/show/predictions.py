"""Predictions as a table, for ``dropopt predict``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.table import Table
from rich.text import Text


class Predicted(Protocol):
    """What the table shows of a prediction; see :class:`dropopt.standalone.model.Prediction`."""

    @property
    def image(self) -> str:
        """The image."""

    @property
    def label(self) -> str:
        """The name of its class."""

    @property
    def probability(self) -> float:
        """The probability of this class."""

    @property
    def entropy(self) -> float:
        """Entropy of all probabilities, in nats."""

    @property
    def mutual_information(self) -> float | None:
        """Mutual information in nats; None without samples."""

    @property
    def note(self) -> str:
        """Why the class means little; usually empty."""


def table(predictions: Sequence[Predicted]) -> Table:
    """One row for each image; with uncertainties if there were samples, and with notes if there are any."""
    sampled = any(one.mutual_information is not None for one in predictions)
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("image", overflow="fold")
    shown.add_column("class", overflow="fold")
    shown.add_column("probability", justify="right")
    if sampled:
        shown.add_column("entropy", justify="right")
        shown.add_column("mutual information", justify="right")
    noted = any(one.note for one in predictions)
    if noted:
        shown.add_column("note", overflow="fold", style="yellow")
    for one in predictions:
        row: list[str | Text] = [Text(one.image), Text(one.label), f"{one.probability:.4f}"]
        if sampled:
            row += [f"{one.entropy:.4f}", f"{one.mutual_information:.4f}"]
        if noted:
            row.append(one.note)
        shown.add_row(*row)
    return shown
