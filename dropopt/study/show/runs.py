"""Progress of a confirmation: live on a terminal, otherwise a line for each run that has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group

from dropopt.study.confirm.runs import run_of
from dropopt.study.show.console import say
from dropopt.study.show.display import SlotsDisplay
from dropopt.study.store.scale import Scale

if TYPE_CHECKING:
    import optuna


class RunsProgress(SlotsDisplay):
    """Shows the runs of a confirmation on ``console``. Implements :class:`dropopt.study.run.worker.Listener`.

    Args:
        console: Where to print.
        names: How each configuration is called.
        scale: How the values of the runs are shown.
        what: What a run is, such as ``run`` or ``test``.
    """

    def __init__(self, console: Console, names: Mapping[int, str], scale: Scale, what: str = "run") -> None:
        super().__init__(console, scale)
        self._names = names
        self._what = what
        self._study: optuna.Study | None = None

    def opened(self, study: optuna.Study) -> None:
        """Follow ``study``."""
        self._study = study
        self._began = time.monotonic()

    def ended(self, slot: int, trial: int, failure: str = "") -> None:
        """A run has ended."""
        super().ended(slot, trial, failure)
        if not failure and not self.is_live and self._study is not None:
            done = self._study.get_trials(deepcopy=False)[trial]
            value = "" if done.value is None else f": {self._scale.name} {self._scale.text(done.value)}"
            finished, total = self._finished()
            say(self._console, f"{self._label(trial)}{value} ({finished} of {total} {self._what}s)")

    def out(self, configuration: int, reason: str) -> None:
        """A configuration is not trained further."""
        say(self._console, f"{self._name(configuration)} is not trained further: {reason}")

    def tick(self) -> None:
        """Redraw, if it is time."""
        if not self.is_due or self._study is None:
            return
        done, total = self._finished()
        left = self._time_left(total - done) if self._ended else "-"
        self.draw(
            Group(self._head(done, total, f"{done} of {total} {self._what}s", f"time left {left}"), *self._lines())
        )

    def _label(self, trial: int) -> str:
        run = None if self._study is None else run_of(self._study.get_trials(deepcopy=False)[trial])
        if run is None:
            return f"{self._what} {trial}"
        return f"{self._name(run.configuration)}, seed {run.repeat + 1}"

    def _name(self, configuration: int) -> str:
        return self._names.get(configuration, f"trial {configuration}")

    def _finished(self) -> tuple[int, int]:
        """How many runs have finished, and how many there are."""
        trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        runs = {run_of(trial) for trial in trials}
        return len(runs - {run_of(trial) for trial in trials if not trial.state.is_finished()}), len(runs)
