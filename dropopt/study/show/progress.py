"""Progress of a study, for ``dropopt run``: a live table on a terminal, a few plain lines in a pipe or a file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dropopt.numbers import quantity
from dropopt.study.run.messages import Report
from dropopt.study.show.console import say
from dropopt.study.show.display import SlotsDisplay
from dropopt.study.show.formatting import format_accuracy, format_parameters, format_score
from dropopt.study.show.live import LivePage
from dropopt.study.store.queries import Counts, leader, task_of
from dropopt.study.store.scale import Scale
from dropopt.study.store.trial_summary import TrialSummary

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


#: Seconds after which a line is printed in a pipe or a file, so that a study of long trials does not seem to hang.
SILENCE = 300


class Progress(SlotsDisplay):
    """Shows a study on ``console`` while it runs: live on a terminal, otherwise line by line.

    It implements :class:`dropopt.study.run.worker.Listener`.
    """

    def __init__(self, console: Console, n_trials: int) -> None:
        super().__init__(console, Scale())
        self._n_trials = n_trials
        self._study: optuna.Study | None = None
        self._score = "accuracy"  # the name of its metric
        self._summary = TrialSummary()
        self._counts = Counts()
        self._best: FrozenTrial | None = None
        self._page: LivePage | None = None
        self._tenths = 0  # of the trials, that had ended when a line was last printed
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        super().__enter__()
        self._redraw()
        return self

    def opened(self, study: optuna.Study, page: LivePage | None = None) -> None:
        """Follow ``study`` and update its ``page``. The trials that it already has are not announced."""
        self._study, self._page = study, page
        self._scale = Scale.of(study)
        self._score = task_of(study).score
        self._began = self._said = time.monotonic()
        self._read()
        self._tenths = self._ended_tenths()

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A trial has ended. It is announced if it failed or is the best so far; so is each tenth of the trials."""
        super().ended(slot, trial, failure)
        before = self._best
        self._read()
        if self._page is not None:
            self._page.update()
        best = self._best
        if not self.is_live and best is not None and (before is None or best.number != before.number):
            scores = f"{self._value(best.value)}, {self._score} {format_accuracy(best)}"
            self._say(f"trial {best.number} is the best so far: {scores} ({self._done()})")
        elif not self.is_live and self._tenths < self._ended_tenths() < 10:
            self._say_progress()

    def tick(self) -> None:
        """Redraw, or print a line, if it is time."""
        if self.is_due:
            self._redraw()
        elif not self.is_live and self._study is not None and time.monotonic() - self._said >= SILENCE:
            self._read()
            self._say_progress()

    def _say_progress(self) -> None:
        """Print how far the study is: ``12 of 40 trials: 10 complete, 2 pruned; time left 3:05``."""
        self._say(f"{self._done()}: {self._counts}; time left {self._left()}")

    def _say(self, text: str) -> None:
        say(self._console, text)
        self._said, self._tenths = time.monotonic(), self._ended_tenths()

    def _ended_tenths(self) -> int:
        return 10 * self._summary.budget_spent() // self._n_trials

    def _done(self) -> str:
        return f"{self._summary.budget_spent()} of {quantity(self._n_trials, 'trial')}"

    def _left(self) -> str:
        more = self._n_trials - self._summary.budget_spent()
        return "-" if self._ended < 2 else self._time_left(max(0, more))

    def _read(self) -> None:
        """Read the state of the study from its storage."""
        if self._study is not None:
            self._summary.update(self._study.get_trials(deepcopy=False))
            self._counts, self._best = self._summary.counts(), leader(self._study, self._summary.leaders)

    def _redraw(self) -> None:
        done, total = self._summary.budget_spent(), self._n_trials
        words = self._done(), str(self._counts), f"time left {self._left()}"
        lines: list[Table | Text] = [self._head(done, total, *words)]
        if self._study is None:
            lines.append(Text("starting: loading torch and the data", style="dim"))
        if self._best is not None:
            scores = f"{self._value(self._best.value)}, {self._score} {format_accuracy(self._best)}"
            head = f"best: trial {self._best.number}, {scores}"
            lines += [Text(head, style="bold"), Text("  " + format_parameters(self._best.params), style="dim")]
        self.draw(Group(*lines, *self._lines()))

    def _epoch(self, report: Report) -> str:
        return f"{super()._epoch(report)}  {self._score} {format_score(report.val_accuracy)}"
