"""Progress of a single training run, for ``dropopt train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from dropopt.training import EpochReport


class EpochProgress:
    """A line on the terminal that shows the latest epoch; nothing in a pipe or a file."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> EpochProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: EpochReport) -> None:
        """Show the report of an epoch."""
        if self._live is not None:
            line = (
                f"epoch {report.epoch} of {report.epochs}  training loss {report.train_loss:.4f}  "
                f"validation loss {report.val_loss:.4f}  accuracy {report.val_accuracy:.4f}"
            )
            self._live.update(Text(line), refresh=True)
