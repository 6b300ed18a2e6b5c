"""The list of the studies in a storage, for ``dropopt status``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.study.show.console import say
from dropopt.study.show.formatting import format_score
from dropopt.study.show.table import Table
from dropopt.study.store.keys import ACCURACY, COMMAND, TEST_ACCURACY
from dropopt.study.store.queries import (
    Counts,
    count,
    find_study,
    last_activity,
    leader,
    metric_key,
    search_of,
    study_names,
    task_of,
    waiting,
)
from dropopt.study.store.scale import Scale

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: The largest width of the table, in characters. Cells that are too long are wrapped.
WIDTH = 80


@dataclass(frozen=True)
class Row:
    """One study.

    Attributes:
        study: Its name.
        objectives: The direction of each of its objectives, ``minimize`` or ``maximize``.
        counts: The number of trials in each state.
        leader: The best trial; None if there is none, if it has diverged, or if there are several objectives.
        last: The time of the last activity.
        waiting: The number of trials whose worker has died or stopped, and that are to run again.
        scale: How its values are shown.
        score: The name of its metric.
        smoothed: Whether its values are smoothed over epochs, as its metric says in the storage.
        resume: The command that resumes it.
        unknown: Why this version cannot tell its best trial; empty if it can.
    """

    study: str
    objectives: tuple[str, ...]
    counts: Counts
    leader: FrozenTrial | None
    last: datetime | None
    waiting: int = 0
    scale: Scale = field(default_factory=Scale)
    score: str = "accuracy"
    smoothed: bool = False
    resume: str = "dropopt run"
    unknown: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the row as values for JSON."""
        found: dict[str, Any] | None = None
        if self.leader is not None:
            accuracy = self.leader.user_attrs.get(ACCURACY)
            found = {"trial": self.leader.number, "value": self.leader.value, metric_key(self.score): accuracy}
        return {
            "study": self.study,
            "objectives": list(self.objectives),
            "trials": asdict(self.counts),
            "waiting_for_a_worker": self.waiting,
            "value": self.scale.stored,
            "metric": self.score,
            "best": found,
            "last_activity": self.last and self.last.isoformat(timespec="seconds"),
        }

    def cells(self, *, mark: bool = False) -> tuple[str, ...]:
        """The row as text; with ``mark`` it says itself that its value is smoothed."""
        if len(self.objectives) > 1:
            values = ("several objectives", "-", "-")
        elif self.leader is None:
            values = ("-", "-", "-")
        else:
            value, found = f"{self.scale.name} {self.scale.text(self.leader.value)}", self.leader.user_attrs
            score = format_score(found.get(TEST_ACCURACY, found.get(ACCURACY)))  # of the split that the value is of
            named = score if self.score == "accuracy" or score == "-" else f"{self.score} {score}"
            shown = f"{'smoothed ' * (mark and self.smoothed)}{value.removeprefix('value ')}"
            values = (shown, named, str(self.leader.number))
        return self.study, str(self.counts), *values, f"{self.last:%Y-%m-%d %H:%M}" if self.last else "-"


def rows(storage: BaseStorage, only: str | None = None, *, alone: bool = False) -> Iterator[Row]:
    """The studies in ``storage``, by name.

    Args:
        storage: The storage.
        only: The name of the only study that is wanted; None for all.
        alone: Whether no process writes to the storage.

    Raises:
        ConfigError: There is no study ``only``.
    """
    for name in study_names(storage) if only is None else [only]:
        study = find_study(storage, name)
        trials = study.get_trials(deepcopy=False)
        objectives = tuple(direction.name.lower() for direction in study.directions)
        row = Row(
            name,
            objectives,
            count(trials),
            None,
            last_activity(trials),
            waiting(trials, alone=alone),
            smoothed=any(metric.endswith(" (smoothed)") for metric in study.metric_names or ()),
            resume=_resume(study),
        )
        try:
            yield replace(row, leader=leader(study, trials), scale=Scale.of(study), score=task_of(study).score)
        except ConfigError as error:  # the others are listed all the same
            yield replace(row, unknown=str(error))


def _resume(study: optuna.Study) -> str:
    if (search := search_of(study)) is not None:
        return f"dropopt confirm --study {shlex.quote(search)}"
    return str(study.user_attrs.get(COMMAND, "dropopt run"))


def show_status(
    console: Console, storage: BaseStorage, url: str, only: str | None = None, *, alone: bool = False
) -> None:
    """Print one row for each study in ``storage``.

    Args:
        console: Where to print.
        storage: The storage.
        url: Its redacted address.
        only: The name of the only study to print; None for all.
        alone: Whether no process writes to it.
    """
    found = list(rows(storage, only, alone=alone))
    if not found:
        say(console, f"{url} holds no study yet")
        return
    say(console, url)
    heading = "accuracy" if all(row.score == "accuracy" for row in found) else "metric"
    smoothed = all(row.smoothed for row in found)
    value = "best value (smoothed)" if smoothed else "best value"
    table = Table("study", "trials", value, heading, "trial", "last activity")
    for column in table.columns:
        column.overflow = "fold"
    for row in found:
        table.add_row(*row.cells(mark=not smoothed))
    console.print(table, width=min(console.width, WIDTH), markup=False)
    for row in found:
        if row.unknown:
            say(console, row.unknown, "yellow")
        if row.waiting:
            wait = "waits" if row.waiting == 1 else "wait"
            waiting = f"{quantity(row.waiting, 'trial')} {wait} for a worker"
            say(console, f"study {row.study}: {waiting}; resume the study with: {row.resume}")
