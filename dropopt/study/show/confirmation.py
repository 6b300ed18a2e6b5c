"""The result of a confirmation as tables and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from dropopt.config import ConfigError
from dropopt.numbers import fixed, quantity
from dropopt.study.confirm.intervals import Interval, mean_of
from dropopt.study.confirm.results import Confirmation, Confirmed, Tested, confirmation
from dropopt.study.show.console import say
from dropopt.study.show.table import Table
from dropopt.study.store.scale import Scale

if TYPE_CHECKING:
    import optuna

#: The scale of values that are shown as they are stored.
AS_STORED = Scale()


def show_confirmation(console: Console, found: Confirmation) -> None:
    """Print the configurations, the verdict, how optimistic the search was, and what was read of the test split."""
    seeds = quantity(found.seeds, "fresh seed")
    title = f"study {found.study}: {seeds} (validation, 95% intervals; differences are paired by seed)"
    heading = found.scale.heading(found.score)
    table = Table("configuration", heading, "from the winner", found.score, "seeds", title=title)
    for one in found.configurations:
        table.add_row(*_cells(one, found))
    for failed in found.failed:
        table.add_row(failed.name, "-", failed.why, "-", "0")
    if table.rows:
        console.print(table)
    say(console, found.verdict, "bold")
    if optimism := _optimism(found):
        say(console, optimism)
    if found.tested is not None:
        say(console, _tested(found, found.tested))


def confirmed(study: optuna.Study) -> list[str]:
    """What the last confirmation of a search says, in sentences: its verdict, and what it read of the test split.

    Empty if there is none, or none of its configurations has been trained on all seeds yet.
    """
    try:
        found = confirmation(study)
    except ConfigError:  # another study has the name of its runs
        return []
    if found is None or found.winner is None:
        return []
    verdict = f"confirmed on {quantity(found.seeds, 'fresh seed')}: {found.verdict}"
    return [verdict, *([] if found.tested is None else [_tested(found, found.tested)])]


def _cells(one: Confirmed, found: Confirmation) -> tuple[str, ...]:
    scores, scale = one.validation, found.scale
    accuracy = fixed(mean_of(list(scores.accuracy.values())).mean)[0] if scores.accuracy else "-"
    return (
        one.name,
        format_interval(one.mean, scale),
        _from_winner(one, found),
        accuracy,
        str(scores.seeds),
    )


def _from_winner(one: Confirmed, found: Confirmation) -> str:
    if one is found.winner:
        return "winner"
    if one.failure:
        return f"out: {one.failure}"
    difference = found.from_winner(one)
    if difference is None:
        return "out" if one.out else "-"
    gap = difference.interval
    mean, half = fixed(found.scale.change(gap.mean), (gap.high - gap.low) / 2, sign=True)
    # The reason in `out` is left out: its percentage is that to the leader and over the seeds when the race dropped it.
    return f"{mean} +- {half.removeprefix('+')}{', out' if one.out else ''}"


def format_interval(found: Interval, scale: Scale = AS_STORED) -> str:
    """A mean and half the width of its interval: ``0.3412 +- 0.0101``."""
    mean, half = scale.read(found.mean), (found.high - found.low) / 2
    return " +- ".join(fixed(mean, half)) if half < float("inf") else fixed(mean)[0]


def _optimism(found: Confirmation) -> str:
    winner, scale = found.winner, found.scale
    if winner is None or found.optimism is None:
        return ""
    own, mean = found.optimism, found.mean_optimism
    if scale.complement:  # a share of 1 - metric means little to a reader
        own = winner.mean.mean - winner.searched
        gaps = [one.mean.mean - one.searched for one in found.configurations if one.chosen]
        mean = sum(gaps) / len(gaps) if gaps else None
    text = f"the search had given it the {scale.name} {scale.text(winner.searched)}, which is {_too(own, scale)}"
    if mean is not None:
        text += f"; on average over the configurations that it chose, its values are {_too(mean, scale)}"
    return text


def _too(optimism: float, scale: Scale) -> str:
    """How far a value of the search was from the confirmed one: ``4% too low``, or ``right to within 1%``."""
    amount = fixed(abs(optimism))[0] if scale.complement else f"{abs(optimism):.0%}"
    if amount == "0%":
        return "right to within 1%"
    return f"{amount} too {'high' if (optimism > 0) == scale.maximise else 'low'}"


def _tested(found: Confirmation, tested: Tested) -> str:
    name = next((one.name for one in found.configurations if one.trial == tested.trial), f"trial {tested.trial}")
    parts = []
    for label, values in (("loss", tested.test.loss), (found.score, tested.test.accuracy), ("ECE", tested.test.ece)):
        if values:
            parts.append(f"{label} {format_interval(mean_of(list(values.values())))}")
    return f"test split, read {tested.at} for {name}, {quantity(tested.test.seeds, 'network')}: {', '.join(parts)}"
