"""Progress of a confirmation: live on a terminal, otherwise a line for each run that has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dropopt.study.confirm.runs import Run, run_of
from dropopt.study.run.messages import Report
from dropopt.study.show.console import say
from dropopt.study.show.display import Display
from dropopt.study.show.formatting import format_seconds
from dropopt.study.store.scale import Scale

if TYPE_CHECKING:
    import optuna


class RunsProgress(Display):
    """Shows the runs of a confirmation on ``console``. Implements :class:`dropopt.study.run.worker.Listener`.

    Args:
        console: Where to print.
        names: How each configuration is called.
        scale: How the values of the runs are shown.
        what: What a run is, such as ``run`` or ``test``.
    """

    def __init__(self, console: Console, names: Mapping[int, str], scale: Scale, what: str = "run") -> None:
        super().__init__(console)
        self._console = console
        self._names = names
        self._what = what
        self._scale = scale
        self._study: optuna.Study | None = None
        self._slots: dict[int, tuple[int, Report | None]] = {}
        self._began = time.monotonic()
        self._ended = 0

    def opened(self, study: optuna.Study) -> None:
        """Follow ``study``."""
        self._study = study
        self._began = time.monotonic()

    def started(self, slot: int, trial: int) -> None:
        """A slot starts a run."""
        self._slots[slot] = (trial, None)

    def moved(self, slot: int, to: int) -> None:
        """The run of a slot continues in another slot."""
        if slot in self._slots:
            self._slots[to] = self._slots.pop(slot)

    def reported(self, slot: int, trial: int, report: Report) -> None:
        """A slot has ended an epoch."""
        self._slots[slot] = (trial, report)

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A run has ended."""
        self._slots.pop(slot, None)
        self._ended += 1
        if failure:
            say(self._console, f"{self._label(trial)} failed: {failure}", "yellow")
        elif not self.is_live and self._study is not None:
            done = self._study.get_trials(deepcopy=False)[trial]
            value = "" if done.value is None else f": {self._scale.name} {self._scale.text(done.value)}"
            say(self._console, f"{self._label(trial)}{value} ({self._finished()} of {self._total()} {self._what}s)")

    def restarted(self, slot: int, trial: int, reason: str) -> None:
        """The process of a run has died, and a new one continues it."""
        say(self._console, f"{self._label(trial)} continues in a new process: {reason}", "yellow")

    def out(self, configuration: int, reason: str) -> None:
        """A configuration is not trained further."""
        say(self._console, f"{self._names.get(configuration, configuration)} is not trained further: {reason}")

    def tick(self) -> None:
        """Redraw, if it is time."""
        if not self.is_due or self._study is None:
            return
        done, total = self._finished(), self._total()
        left = (
            "-" if not self._ended else format_seconds((total - done) * (time.monotonic() - self._began) / self._ended)
        )
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(total, 1), completed=done, width=30)
        grid.add_row(bar, f"{done} of {total} {self._what}s", f"time left {left}")
        lines = [
            Text(f"  slot {slot + 1}  {self._label(trial)}  {self._epoch(report)}")
            for slot, (trial, report) in sorted(self._slots.items())
        ]
        self.draw(Group(grid, *lines))

    def _label(self, trial: int) -> str:
        run = None if self._study is None else run_of(self._study.get_trials(deepcopy=False)[trial])
        return f"{self._what} {trial}" if run is None else self._name(run)

    def _name(self, run: Run) -> str:
        return f"{self._names.get(run.configuration, f'trial {run.configuration}')}, seed {run.repeat + 1}"

    def _finished(self) -> int:
        trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        return len({run_of(trial) for trial in trials if trial.state.is_finished()} - self._open())

    def _total(self) -> int:
        trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        return len({run_of(trial) for trial in trials})

    def _open(self) -> set[Run | None]:
        trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        return {run_of(trial) for trial in trials if not trial.state.is_finished()}

    def _epoch(self, report: Report | None) -> str:
        if report is None:
            return "starting"
        value = f"smoothed {self._scale.name} {self._scale.text(report.objective)}"
        return f"epoch {report.epoch:>3} of {report.epochs}  {value}"
