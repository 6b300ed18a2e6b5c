"""The list of the studies in a storage, for ``dropopt status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dropopt.study.show.console import say
from dropopt.study.show.formatting import format_accuracy
from dropopt.study.store.queries import best, count, last_activity, study_names

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def show_status(console: Console, storage: BaseStorage, url: str) -> None:
    """Print one row for each study in ``storage``; ``url`` is its redacted address."""
    import optuna

    names = study_names(storage)
    if not names:
        say(console, f"{url} holds no study yet")
        return
    table = Table("study", "trials", "best loss", "accuracy", "trial", "last activity", title=url)
    for name in names:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        leader, last = best(trials), last_activity(trials)
        values = (f"{leader.value:.4f}", format_accuracy(leader), str(leader.number)) if leader else ("-", "-", "-")
        table.add_row(name, str(count(trials)), *values, f"{last:%Y-%m-%d %H:%M:%S}" if last else "-")
    console.print(table)
