"""The summary at the end of ``dropopt run``: the best trials, the failures and the next commands to type."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from dropopt.study.search.anchors import Comparison
from dropopt.study.show.console import say, say_command
from dropopt.study.show.formatting import anchor_rows, format_accuracy, format_value
from dropopt.study.show.next_lines import Resume, next_lines
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.table import Table
from dropopt.study.show.words import cautions
from dropopt.study.store.anchor_names import name_of
from dropopt.study.store.keys import BEST_EPOCH, MESSAGE, REASON, SECONDS, UNCOUNTED
from dropopt.study.store.scale import Scale
from dropopt.study.store.url import VARIABLE

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Rows of the table of the best trials.
ROWS = 5
#: Failures with the same reason share a line. At most this many lines are printed.
FAILURE_LINES = 3


@dataclass(frozen=True)
class Outcome:
    """How a session ended, and the values for the commands that the summary suggests."""

    timeout: float | None  # seconds after which no trial starts
    stopped_by: int | None  # the signal that ended the session
    url: str  # of the storage, redacted
    storage_hint: str  # the option --storage as it is typed, with a space before it; or empty
    resume: Resume

    @property
    def url_note(self) -> str:
        """Where the password of the storage is read from, if the URL is shown without it."""
        return f" (set {VARIABLE} to the URL with its password)" if "***" in self.url or "..." in self.url else ""


def show_summary(console: Console, study: optuna.Study, outcome: Outcome) -> None:
    """Print the best trials, the failures, the storage and the next commands."""
    shot = Snapshot.of(study)
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        say(console, f"stopped by {name}; running trials are recorded as interrupted and run again later")
    say(console, f"\nstudy {study.study_name}: {shot.counts}", "bold")
    if not shot.trials and outcome.timeout is not None and outcome.stopped_by is None:
        say(console, f"no trial could start within {outcome.timeout:g} s; give a longer --timeout", "yellow")
    if shot.leader is not None:
        console.print(_best_trials(shot))
        console.print(_parameters(shot.leader))
    elif shot.ranked:
        say(console, "every complete trial has diverged; a lower learning rate may help", "yellow")
    if shot.leader is not None and (comparison := shot.comparison):
        console.print(_anchors(comparison, shot.scale, shot.score))
        say(console, comparison.verdict)
    for text in cautions(shot):
        say(console, text, "yellow")
    for line in failures(shot.trials)[:FAILURE_LINES]:
        say(console, line, "yellow")
    say(console, f"\nstored in {outcome.url}{outcome.url_note}; next:")
    for what, command in next_lines(shot, outcome.storage_hint, outcome.resume):
        say_command(console, what, command)


def _best_trials(shot: Snapshot) -> Table:
    value = f"{shot.scale.name} (smoothed)"
    table = Table("trial", value, shot.score, "best epoch", "seconds", title="best trials (validation)")
    for trial in shot.ranked[:ROWS]:
        # Trials that another program has added have neither.
        extra = (trial.user_attrs.get(name, "-") for name in (BEST_EPOCH, SECONDS))
        table.add_row(_named(trial), shot.scale.text(trial.value), format_accuracy(trial), *map(format_value, extra))
    return table


def _named(trial: FrozenTrial) -> str:
    """The number of a trial, and which anchor or entry of the study's portfolio it is."""
    name = name_of(trial)
    return f"{trial.number} ({name})" if name else str(trial.number)


def _anchors(comparison: Comparison, scale: Scale, score: str) -> Table:
    what = scale.name
    table = Table("anchor", "trial", f"{what} (smoothed)", score, f"best trial's {what}", title="compared with")
    for row in anchor_rows(comparison, scale):
        table.add_row(*row)
    return table


def _parameters(trial: FrozenTrial) -> Table:
    table = Table("setting", "value", title=f"trial {_named(trial)}")
    for name, value in trial.params.items():
        table.add_row(name, format_value(value))
    return table


def failures(trials: Iterable[FrozenTrial]) -> list[str]:
    """One line for each reason of failure, the most frequent first."""
    by_reason: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        reason = trial.user_attrs.get(REASON)
        if reason and reason not in UNCOUNTED:
            by_reason.setdefault(reason, []).append(trial)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return [
        f"{len(failed)} failed: {reason} (trial {failed[-1].number}: {failed[-1].user_attrs.get(MESSAGE)})"
        for reason, failed in ordered
    ]
