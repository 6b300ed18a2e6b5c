"""A trial in a slot: its state and its time limits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from dropopt.config import RunConfig
from dropopt.study.run.messages import Report
from dropopt.study.store.history import History, thinned

#: Numbers of drop rates that are stored; of a large network trained for long, only some epochs are kept.
MOST_RATES = 4000
#: Decimals of a stored number.
DECIMALS = 5

#: How often the process of one trial may die before the trial fails.
MAX_DEATHS = 3

#: A trial that was pruned, or that runs beyond the study's time limit, is ended after this many seconds without a
#: report, or after twice its longest epoch if that is longer.
GRACE_SECONDS = 60.0

#: A trial may hang if it sends no report for so many times its longest epoch, and for so many seconds.
STALLED_EPOCHS, STALLED_SECONDS = 10, 300.0


@dataclass(frozen=True)
class Limits:
    """The time limits of a session and of each trial in it."""

    #: Seconds after which no further trial starts; None for no limit.
    timeout: float | None = None
    #: Seconds after which a trial fails; None for no limit.
    trial_timeout: float | None = None


@dataclass
class Running:
    """A trial in a slot."""

    trial: optuna.Trial
    run: RunConfig
    #: The file that the trial continues from and writes after each epoch; None to train without one.
    checkpoint: Path | None = None
    #: The last epoch that this worker has stored. Earlier ones are not stored again when the trial continues.
    reported: int = 0
    began: float = field(default_factory=time.monotonic)
    #: How often its process has died.
    deaths: int = 0
    #: Whether the trial has ended in the storage, but its slot is not free yet: it was pruned, or ended elsewhere.
    ended: bool = False
    #: Why it ended, if it was not pruned.
    note: str = ""
    #: Whether a limit has ended it, so that it may be continued with a higher one.
    limited: bool = False
    #: When its current epoch began, or when its process was last replaced.
    _last: float = field(default_factory=time.monotonic)
    #: The duration of its longest epoch; 0 before it has reported one.
    longest_epoch: float = 0.0
    _stall_told: bool = False
    _reports: dict[int, Report] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The time since the trial began."""
        return round(time.monotonic() - self.began, 3)

    def epoch_ended(self) -> None:
        """Record the duration of the epoch that has just ended."""
        now = time.monotonic()
        self.longest_epoch = max(self.longest_epoch, now - self._last)
        self._last = now

    def keep(self, report: Report) -> None:
        """Keep the report of an epoch, for the trial's history."""
        self._reports[report.epoch] = report

    @property
    def history(self) -> History:
        """The epochs of the trial so far. Those that an earlier worker has trained are missing."""
        return history_from([self._reports[epoch] for epoch in sorted(self._reports)])

    @property
    def applied(self) -> float | None:
        """The mean applied drop rate over places and epochs so far; None if there are no places."""
        rates = [rate for report in self._reports.values() for rate in report.rates.values()]
        return round(sum(rates) / len(rates), 5) if rates else None

    def restarted(self) -> None:
        """Record that the process of the trial has been replaced."""
        self._last = time.monotonic()

    def is_silent(self, since: float) -> bool:
        """Whether the trial has sent no report for its whole grace period, which begins at ``since`` or later."""
        return time.monotonic() - max(self._last, since) > max(GRACE_SECONDS, 2 * self.longest_epoch)

    def stalled(self) -> float | None:
        """Return for how many seconds the trial has sent no report, if it may hang; otherwise None.

        A trial is told once. One that has sent no report yet is never told, because the usual duration of its epochs is
        not known.
        """
        silence = time.monotonic() - self._last
        usual = silence <= max(STALLED_SECONDS, STALLED_EPOCHS * self.longest_epoch)
        if usual or self._stall_told or not self.longest_epoch:
            return None
        self._stall_told = True
        return silence


def history_from(reports: Sequence[Report]) -> History:
    """The history of the reports of a trial, in order."""
    places = list(reports[0].rates) if reports else []
    kept = thinned(reports, max(1, MOST_RATES // max(1, len(places))))
    return History(
        epochs=tuple(report.epoch for report in reports),
        train_loss=tuple(_rounded(report.train_loss) for report in reports),
        val_loss=tuple(_rounded(report.val_loss) for report in reports),
        val_accuracy=tuple(_rounded(report.val_accuracy) for report in reports),
        rate_epochs=tuple(report.epoch for report in kept),
        rates=_columns(places, [report.rates for report in kept]),
        weights=_columns(reports[0].weights if reports else (), [report.weights for report in kept]),
    )


def _columns(names: Iterable[str], rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(_rounded(row.get(name, 0.0)) or 0.0 for row in rows) for name in names}


def _rounded(value: float) -> float | None:
    return round(float(value), DECIMALS) if math.isfinite(value) else None
