"""Progress of a single training run, for ``dropopt train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dropopt.study.show.display import Display

if TYPE_CHECKING:
    from dropopt.training import EpochReport


class EpochProgress(Display):
    """A line on the terminal that shows the latest epoch; nothing in a pipe or a file."""

    def show(self, report: EpochReport) -> None:
        """Show the report of an epoch."""
        line = (
            f"epoch {report.epoch} of {report.epochs}  training loss {report.train_loss:.4f}  "
            f"validation loss {report.val_loss:.4f}  accuracy {report.val_accuracy:.4f}"
        )
        self.draw(Text(line))
