"""What a person sees while a study runs: a live table on a terminal, a few plain lines otherwise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dropopt.study.run.messages import Report
from dropopt.study.show.console import say
from dropopt.study.show.words import show_accuracy, show_parameters, show_seconds
from dropopt.study.store.queries import Counts, best, count

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from dropopt.training import EpochReport

#: Redraws per second: more would cost what trials could use.
REFRESH = 2


class Progress:
    """Follows a study and shows it on ``console``: live if that is a terminal, else line by line."""

    def __init__(self, console: Console, n_trials: int) -> None:
        self._console = console
        self._n_trials = n_trials
        self._study: optuna.Study | None = None
        self._counts = Counts()
        self._best: FrozenTrial | None = None
        self._slots: dict[int, tuple[int, Report | None]] = {}
        self._began = time.monotonic()
        self._drawn = 0.0
        self._ended = 0
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def opened(self, study: optuna.Study) -> None:
        """The study is there; what it already holds is not news."""
        self._study = study
        self._began = time.monotonic()
        self._look()

    def started(self, slot: int, trial: int) -> None:
        """A slot begins a trial."""
        self._slots[slot] = (trial, None)

    def reported(self, slot: int, trial: int, report: Report) -> None:
        """A slot has ended an epoch."""
        self._slots[slot] = (trial, report)

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended: news if it failed or leads."""
        self._slots.pop(slot, None)
        self._ended += 1
        before = self._best
        self._look()
        if failure:
            say(self._console, f"trial {trial} failed: {failure}", "yellow")
        leader = self._best
        if self._live is None and leader is not None and (before is None or leader.number != before.number):
            say(
                self._console,
                f"trial {leader.number} leads: loss {leader.value:.4f}, accuracy {show_accuracy(leader)} "
                f"({self._counts.counted} of {self._n_trials} trials)",
            )

    def tick(self) -> None:
        """Redraw, if it is time."""
        if self._live is not None and time.monotonic() - self._drawn >= 1 / REFRESH:
            self._draw()

    def _look(self) -> None:
        if self._study is not None:
            trials = self._study.get_trials(deepcopy=False)
            self._counts, self._best = count(trials), best(trials)

    def _left(self) -> str:
        """The time that the remaining trials will take, from those of this sitting."""
        if self._ended < 2:
            return "-"
        remaining = max(0, self._n_trials - self._counts.counted)
        return show_seconds(remaining * (time.monotonic() - self._began) / self._ended)

    def _draw(self) -> None:
        if self._live is None:
            return
        self._drawn = time.monotonic()
        grid = Table.grid(padding=(0, 2))
        done = self._counts.counted
        bar = ProgressBar(total=self._n_trials, completed=done, width=30)
        grid.add_row(bar, f"{done} of {self._n_trials} trials", str(self._counts), f"time left {self._left()}")
        lines: list[Table | Text] = [grid]
        if self._study is None:
            lines.append(Text("starting: loading torch and the data", style="dim"))
        if self._best is not None:
            loss, accuracy = f"{self._best.value:.4f}", show_accuracy(self._best)
            head = f"best: trial {self._best.number}, loss {loss}, accuracy {accuracy}"
            lines += [Text(head, style="bold"), Text("  " + show_parameters(self._best), style="dim")]
        for slot, (trial, report) in sorted(self._slots.items()):
            lines.append(Text(f"  slot {slot + 1}  trial {trial:<5}{_epoch(report)}"))
        self._live.update(Group(*lines), refresh=True)


def _epoch(report: Report | None) -> str:
    if report is None:
        return "starting"
    return (
        f"epoch {report.epoch:>3} of {report.epochs}  loss {report.smoothed_loss:.4f}  "
        f"accuracy {report.val_accuracy:.4f}"
    )


class Epochs:
    """A line that follows training on a terminal; nothing when piped."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Epochs:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: EpochReport) -> None:
        """An epoch has ended."""
        if self._live is not None:
            line = (
                f"epoch {report.epoch} of {report.epochs}  training loss {report.train_loss:.4f}  "
                f"validation loss {report.val_loss:.4f}  accuracy {report.val_accuracy:.4f}"
            )
            self._live.update(Text(line), refresh=True)
