"""What is left to read when a study ends or is looked at: tables, places and the next lines to type."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dropopt.study.show.console import say
from dropopt.study.show.words import show_accuracy, show_value
from dropopt.study.store.keys import BEST_EPOCH, SECONDS
from dropopt.study.store.queries import best, count, last_activity, study_names

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from dropopt.study.define.definition import Definition

#: Rows of the summary: the best trials.
ROWS = 5
#: Failures of one kind are told in one line; so many kinds are listed.
KINDS = 3


def summary(
    console: Console,
    study: optuna.Study,
    definition: Definition,
    url: str,
    again: str,
    storage_given: bool,
    ended: int | None,
) -> None:
    """The best trials, what failed, where things are and what to type next."""
    trials = study.get_trials(deepcopy=False)
    counts = count(trials)
    if ended is not None:
        name = signal.Signals(ended).name
        say(console, f"stopped by {name}; trials that ran are recorded as interrupted")
    leader = best(trials)
    say(console, f"\nstudy {study.study_name}: {counts}", "bold")
    if not trials and definition.timeout is not None and ended is None:
        say(
            console, f"{definition.timeout:g} s were over before a trial could start; give a longer --timeout", "yellow"
        )
    if leader is not None:
        console.print(_table(trials))
        console.print(_parameters(leader))
    for line in _failures(trials):
        say(console, line, "yellow")
    option = f" --storage {shlex.quote(url)}" if storage_given else ""
    name = shlex.quote(study.study_name)
    more = counts.counted >= definition.n_trials
    lines = [
        ("look", f"dropopt dashboard{option}"),
        ("learn", f"dropopt efficacy --study {name}{option}"),
        ("go on", again + (f" --n-trials {counts.counted + definition.n_trials}" if more else "")),
    ]
    if leader is not None:
        lines += [
            ("export", f"dropopt export --study {name}{option} -o best.yaml"),
            ("train", "dropopt train best.yaml"),
        ]
    say(console, f"\nstored in {url}; next:")
    for what, line in lines:
        say(console, f"  {what:<8}{line}")


def _table(trials: list[FrozenTrial]) -> Table:
    from optuna.trial import TrialState

    done = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    table = Table("trial", "loss (smoothed)", "accuracy", "best epoch", "seconds", title="best trials (validation)")
    for trial in sorted(done, key=lambda trial: trial.value or 0.0)[:ROWS]:
        extra = (trial.user_attrs.get(name) for name in (BEST_EPOCH, SECONDS))
        table.add_row(str(trial.number), f"{trial.value:.4f}", show_accuracy(trial), *map(show_value, extra))
    return table


def _parameters(trial: FrozenTrial) -> Table:
    table = Table("setting", "value", title=f"trial {trial.number}")
    for name, value in trial.params.items():
        table.add_row(name, show_value(value))
    return table


def _failures(trials: list[FrozenTrial]) -> list[str]:
    """A line for each kind of failure, the most frequent first."""
    from dropopt.study.store.keys import MESSAGE, REASON, UNCOUNTED

    kinds: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        reason = trial.user_attrs.get(REASON)
        if reason and reason not in UNCOUNTED:
            kinds.setdefault(reason, []).append(trial)
    ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))[:KINDS]
    return [
        f"{len(failed)} failed: {reason} (trial {failed[-1].number}: {failed[-1].user_attrs.get(MESSAGE)})"
        for reason, failed in ordered
    ]


def status(console: Console, storage: BaseStorage, url: str) -> None:
    """One row for each study."""
    import optuna

    names = study_names(storage)
    if not names:
        say(console, f"{url} holds no study yet")
        return
    table = Table("study", "trials", "best loss", "accuracy", "trial", "last activity", title=url)
    for name in names:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        leader, last = best(trials), last_activity(trials)
        values = (f"{leader.value:.4f}", show_accuracy(leader), str(leader.number)) if leader else ("-", "-", "-")
        table.add_row(name, str(count(trials)), *values, f"{last:%Y-%m-%d %H:%M:%S}" if last else "-")
    console.print(table)
