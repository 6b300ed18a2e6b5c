"""Progress of a single training run, for ``dropopt train``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dropopt.numbers import fixed
from dropopt.study.show.console import say
from dropopt.study.show.display import Display

if TYPE_CHECKING:
    from dropopt.training import EpochReport


#: Seconds between two lines in a pipe or a file.
PAUSE = 30.0


class EpochProgress(Display):
    """A line on the terminal that shows the latest epoch; in a pipe or a file, a line every half minute.

    Args:
        console: Where to print.
        score: The name of the metric.
    """

    def __init__(self, console: Console, score: str = "accuracy") -> None:
        super().__init__(console)
        self._score = score
        self._again = time.monotonic() + PAUSE

    def show(self, report: EpochReport) -> None:
        """Show the report of an epoch."""
        line = (
            f"epoch {report.epoch} of {report.epochs}  training loss {fixed(report.train_loss)[0]}  "
            f"validation loss {fixed(report.val_loss)[0]}  {self._score} {fixed(report.val_accuracy)[0]}"
        )
        self.draw(Text(line))
        if not self.is_live and time.monotonic() >= self._again:
            say(self._console, line)
            self._again = time.monotonic() + PAUSE
