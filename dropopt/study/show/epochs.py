"""Progress of a single training run, for ``dropopt train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dropopt.study.show.display import Display

if TYPE_CHECKING:
    from dropopt.training import EpochReport


class EpochProgress(Display):
    """A line on the terminal that shows the latest epoch; nothing in a pipe or a file.

    Args:
        console: Where to print.
        score: The name of the metric.
    """

    def __init__(self, console: Console, score: str = "accuracy") -> None:
        super().__init__(console)
        self._score = score

    def show(self, report: EpochReport) -> None:
        """Show the report of an epoch."""
        line = (
            f"epoch {report.epoch} of {report.epochs}  training loss {report.train_loss:.4f}  "
            f"validation loss {report.val_loss:.4f}  {self._score} {report.val_accuracy:.4f}"
        )
        self.draw(Text(line))
