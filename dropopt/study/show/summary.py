"""The summary at the end of ``dropopt run``: the best trials, the failures and the next commands to type."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dropopt.study.blend.gather import FINISHED
from dropopt.study.blend.names import NoBlendError, suggested_blend
from dropopt.study.search.anchors import Comparison, compare
from dropopt.study.show.console import say
from dropopt.study.show.formatting import format_accuracy, format_value
from dropopt.study.store.keys import BEST_EPOCH, MESSAGE, REASON, SECONDS, UNCOUNTED
from dropopt.study.store.queries import Counts, best, count, ranked, value_name

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

    n_trials: int  # the target of the study
    timeout: float | None  # seconds after which no trial starts
    stopped_by: int | None  # the signal that ended the session
    url: str  # of the storage, redacted
    storage_hint: str  # the option --storage as it is typed, with a space before it; or empty
    resume_command: str  # without --n-trials
    extendable: bool = True  # whether that command takes --n-trials


def show_summary(console: Console, study: optuna.Study, outcome: Outcome) -> None:
    """Print the best trials, the failures, the storage and the next commands."""
    trials = study.get_trials(deepcopy=False)
    counts, leader = count(trials), best(trials)
    has_blend = learnable(trials)
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        say(console, f"stopped by {name}; running trials are recorded as interrupted and run again later")
    say(console, f"\nstudy {study.study_name}: {counts}", "bold")
    if not trials and outcome.timeout is not None and outcome.stopped_by is None:
        say(console, f"no trial could start within {outcome.timeout:g} s; give a longer --timeout", "yellow")
    what = value_name(study)
    if leader is not None:
        console.print(_best_trials(trials, what))
        console.print(_parameters(leader))
    if comparison := compare(trials, what):
        console.print(_anchors(comparison, what))
        say(console, comparison.verdict)
    for line in _failures(trials):
        say(console, line, "yellow")
    say(console, f"\nstored in {outcome.url}; next:")
    has_best = leader is not None
    for what, command in _next_commands(study.study_name, outcome, counts, has_best=has_best, has_blend=has_blend):
        say(console, f"  {what:<8}{command}")


def _next_commands(
    name: str, outcome: Outcome, counts: Counts, *, has_best: bool, has_blend: bool
) -> Iterator[tuple[str, str]]:
    """Yield each possible next action and its command."""
    file = shlex.quote(best_file(name))
    name = shlex.quote(name)
    storage = outcome.storage_hint
    reached = counts.counted >= outcome.n_trials
    yield "look", f"dropopt dashboard{storage}"
    if has_blend:
        yield "learn", f"dropopt efficacy --study {name}{storage}"
    if outcome.extendable:
        yield "go on", f"{outcome.resume_command} --n-trials {outcome.n_trials + counts.counted * reached}"
    elif not reached:
        yield "go on", outcome.resume_command
    if has_best:
        yield "export", f"dropopt export --study {name}{storage} -o {file}"
        yield "train", f"dropopt train {file}"


def best_file(study: str, format: str = "yaml") -> str:
    """The name of a file for the best configuration of a study, which no other study is likely to have."""
    return f"best-{re.sub(r'[^A-Za-z0-9_]+', '-', study).strip('-')[:80] or 'study'}.{format}"


def learnable(trials: Sequence[FrozenTrial]) -> bool:
    """Whether ``dropopt efficacy`` can analyse a study with these trials."""
    try:
        return bool(suggested_blend({name for trial in trials if trial.state in FINISHED for name in trial.params}))
    except NoBlendError:
        return False


def _best_trials(trials: Sequence[FrozenTrial], what: str) -> Table:
    table = Table("trial", f"{what} (smoothed)", "accuracy", "best epoch", "seconds", title="best trials (validation)")
    for trial in ranked(trials)[:ROWS]:
        extra = (trial.user_attrs.get(name) for name in (BEST_EPOCH, SECONDS))
        table.add_row(str(trial.number), f"{trial.value:.4f}", format_accuracy(trial), *map(format_value, extra))
    return table


def _anchors(comparison: Comparison, what: str) -> Table:
    table = Table("anchor", "trial", f"{what} (smoothed)", "accuracy", f"best trial's {what}", title="compared with")
    for row in comparison.rows:
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
        table.add_row(row.name, str(row.trial), f"{row.loss:.4f}", accuracy, f"{row.difference:+.1%}")
    return table


def _parameters(trial: FrozenTrial) -> Table:
    table = Table("setting", "value", title=f"trial {trial.number}")
    for name, value in trial.params.items():
        table.add_row(name, format_value(value))
    return table


def _failures(trials: Sequence[FrozenTrial]) -> list[str]:
    """One line for each reason of failure, the most frequent first."""
    by_reason: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        reason = trial.user_attrs.get(REASON)
        if reason and reason not in UNCOUNTED:
            by_reason.setdefault(reason, []).append(trial)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))[:FAILURE_LINES]
    return [
        f"{len(failed)} failed: {reason} (trial {failed[-1].number}: {failed[-1].user_attrs.get(MESSAGE)})"
        for reason, failed in ordered
    ]
