"""The result of a confirmation as tables and sentences."""

from __future__ import annotations

from rich.console import Console

from dropopt.study.confirm.intervals import mean_of
from dropopt.study.confirm.results import Confirmation, Confirmed, Tested
from dropopt.study.show.console import say
from dropopt.study.show.table import Table


def show_confirmation(console: Console, found: Confirmation) -> None:
    """Print the configurations, the verdict, how optimistic the search was, and what was read of the test split."""
    title = f"study {found.study}: {found.seeds} fresh seeds (validation, 95% intervals)"
    table = Table("configuration", found.what, "search", found.score, "seeds", "result", title=title)
    for one in found.configurations:
        table.add_row(*_cells(one, winner=one is found.winner))
    console.print(table)
    say(console, found.verdict, "bold")
    if found.winner is not None and found.optimism is not None:
        say(console, _optimism(found))
    if found.tested is not None:
        say(console, _tested(found, found.tested))


def _cells(one: Confirmed, *, winner: bool) -> tuple[str, ...]:
    scores = one.validation
    accuracy = f"{mean_of(list(scores.accuracy.values())).mean:.4f}" if scores.accuracy else "-"
    mark = "winner" if winner else f"out: {one.out}" if one.out else ""
    return (
        one.name,
        format_interval(one.mean.mean, one.mean.low, one.mean.high),
        f"{one.searched:.4f}",
        accuracy,
        str(scores.seeds),
        mark,
    )


def format_interval(mean: float, low: float, high: float) -> str:
    """A mean and half the width of its interval: ``0.3412 +- 0.0101``."""
    half = (high - low) / 2
    return f"{mean:.4f} +- {half:.4f}" if half < float("inf") else f"{mean:.4f}"


def _optimism(found: Confirmation) -> str:
    winner, name = found.winner, found.what
    if winner is None or found.optimism is None:
        return ""
    how = f"{abs(found.optimism):.0%} too {'low' if found.optimism > 0 else 'high'}"
    text = f"the search had given it the {name} {winner.searched:.4f}, which is {how}"
    if found.mean_optimism is not None:
        mean = f"{abs(found.mean_optimism):.0%} too {'low' if found.mean_optimism > 0 else 'high'}"
        text += f"; on average over the configurations that it chose, its values are {mean}"
    return text


def _tested(found: Confirmation, tested: Tested) -> str:
    name = next((one.name for one in found.configurations if one.trial == tested.trial), f"trial {tested.trial}")
    parts = []
    for label, values in (("loss", tested.test.loss), (found.score, tested.test.accuracy), ("ECE", tested.test.ece)):
        if not values:
            continue
        mean = mean_of(list(values.values()))
        parts.append(f"{label} {format_interval(mean.mean, mean.low, mean.high)}")
    return f"test split, read {tested.at} for {name}, {tested.test.seeds} networks: {', '.join(parts)}"
