"""The trials of a study that can be exported, for ``dropopt export --list``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.text import Text

from dropopt.study.after.configuration import is_exportable
from dropopt.study.show.formatting import format_parameters, format_score
from dropopt.study.show.table import Table
from dropopt.study.store.keys import ACCURACY, ANCHOR, PORTFOLIO
from dropopt.study.store.queries import has_several_objectives, is_maximized, metric_key, ranked, task_of

if TYPE_CHECKING:
    import optuna

    from dropopt.study.store.scale import Scale


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """The complete trials, the best first; in the order of their numbers if there are several objectives."""
    trials, metric = study.get_trials(deepcopy=False), metric_key(task_of(study).score)
    if has_several_objectives(study):
        found = [trial for trial in trials if trial.values is not None]
    else:
        found = [trial for trial in ranked(trials, maximize=is_maximized(study)) if is_exportable(study, trial)]
    return [
        {
            "trial": trial.number,
            "values": list(trial.values or []),
            metric: trial.user_attrs.get(ACCURACY),
            "anchor": trial.user_attrs.get(ANCHOR),
            "portfolio": trial.user_attrs.get(PORTFOLIO),
            "parameters": dict(trial.params),
        }
        for trial in found
    ]


def table(study: str, listed: Iterable[Mapping[str, Any]], score: str, scale: Scale) -> Table:
    """The rows as a table; ``score`` is the name of the metric, and ``scale`` says how values are shown."""
    shown = Table(title=Text(f"study {study}"), title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("trial", justify="right")
    shown.add_column(scale.heading(score), justify="right")
    shown.add_column(score, justify="right")
    shown.add_column("parameters", overflow="fold")
    for row in listed:
        named = row["anchor"] or row["portfolio"]
        parameters = format_parameters(row["parameters"])
        shown.add_row(
            str(row["trial"]),
            " ".join(map(scale.text, row["values"])),
            format_score(row[metric_key(score)]),
            Text(f"({named}) {parameters}" if named else parameters),
        )
    return shown
