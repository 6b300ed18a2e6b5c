"""Lines that are redrawn in place on a terminal, for progress."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dropopt.study.run.messages import Report
from dropopt.study.show.console import say
from dropopt.study.show.formatting import format_duration, format_seconds
from dropopt.study.store.scale import Scale

#: Redraws per second. Redrawing takes processor time from the trials.
REFRESH = 2


class _Cell:
    """Lines that IPython redraws in the output of a cell; :class:`rich.live.Live` needs ipywidgets for that."""

    def start(self) -> None:
        """Show an empty line."""
        from IPython.display import display

        self._shown = display(Text(), display_id=True)

    def update(self, lines: RenderableType, *, refresh: bool) -> None:
        """Replace the lines."""
        grid = Table.grid()  # which a notebook can show, where it cannot show every renderable
        grid.add_row(lines)
        self._shown.update(grid)

    def stop(self) -> None:
        """Remove them."""
        self._shown.update(Text())


class Display:
    """Shows lines in place while its block runs. In a pipe or a file it shows nothing.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | _Cell | None = None
        if console.is_jupyter and not console.quiet:
            self._live = _Cell()
        elif console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether lines are shown in place."""
        return self._live is not None

    @property
    def is_due(self) -> bool:
        """Whether the lines were drawn long enough ago to be drawn again, at most :data:`REFRESH` times per second."""
        return self.is_live and time.monotonic() - self._drawn >= 1 / REFRESH

    def draw(self, lines: RenderableType) -> None:
        """Replace the lines."""
        self._drawn = time.monotonic()
        if self._live is not None:
            self._live.update(lines, refresh=True)


class SlotsDisplay(Display):
    """Shows the trials that run in the slots of a pool. Part of a :class:`dropopt.study.run.worker.Listener`.

    Args:
        console: Where to print.
        scale: How the values of the trials are shown.
    """

    def __init__(self, console: Console, scale: Scale) -> None:
        super().__init__(console)
        self._scale = scale
        self._slots: dict[int, tuple[int, Report | None]] = {}
        self._began = time.monotonic()
        self._ended = 0  # the number of trials that have ended

    def started(self, slot: int, trial: int) -> None:
        """A slot starts a trial."""
        self._slots[slot] = (trial, None)

    def reported(self, slot: int, trial: int, report: Report) -> None:
        """A slot has ended an epoch."""
        self._slots[slot] = (trial, report)

    def moved(self, slot: int, to: int) -> None:
        """The trial of a slot continues in another slot."""
        if slot in self._slots:
            self._slots[to] = self._slots.pop(slot)

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended. A failure is reported."""
        self._slots.pop(slot, None)
        self._ended += 1
        if failure:
            say(self._console, f"{self._label(trial).strip()} failed: {failure}", "yellow")

    def restarted(self, slot: int, trial: int, reason: str) -> None:
        """Report that the process of a trial has died, and a new one continues the trial."""
        say(self._console, f"{self._label(trial).strip()} continues in a new process: {reason}", "yellow")

    def stalled(self, slot: int, trial: int, seconds: float, longest: float) -> None:
        """A trial may hang."""
        silence = f"has reported nothing for {format_duration(seconds)}, and its longest epoch took"
        remedy = "if it hangs, stop this command and run it again"
        text = f"note: {self._label(trial).strip()} {silence} {format_duration(longest)}; {remedy}"
        say(self._console, text, "yellow", indent=6)

    def _time_left(self, trials: int) -> str:
        """The time that so many ``trials`` will take, estimated from those that have ended."""
        return format_seconds(trials * (time.monotonic() - self._began) / self._ended)

    def _head(self, done: int, total: int, *words: str) -> Table:
        """A bar with ``words`` beside it."""
        grid = Table.grid(padding=(0, 2))
        grid.add_row(ProgressBar(total=max(total, 1), completed=done, width=30), *words)
        return grid

    def _lines(self) -> list[Text]:
        """A line for each trial that runs."""
        return [
            Text(f"  slot {slot + 1}  {self._label(trial)}  {'starting' if report is None else self._epoch(report)}")
            for slot, (trial, report) in sorted(self._slots.items())
        ]

    def _label(self, trial: int) -> str:
        return f"trial {trial:<3}"

    def _epoch(self, report: Report) -> str:
        return f"epoch {report.epoch:>3} of {report.epochs}  {self._value(report.objective)}"

    def _value(self, value: float | None) -> str:
        return f"smoothed {self._scale.name} {self._scale.text(value)}"
