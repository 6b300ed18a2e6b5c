"""The five answers, the importances and the costs of the levels, for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from dropopt.numbers import quantity, short
from dropopt.study.effects.effects import Effects
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.words import Answer
from dropopt.study.show.table import Table

#: Choices whose costs are listed in a cell.
LISTED = 4


def effects_parts(effects: Effects, *, tables: bool = True) -> list[RenderableType]:
    """The five answers in short, in full, and with ``tables`` one of the parameters."""
    parts: list[RenderableType] = []
    if any(answer.found for answer in effects.answers):
        parts = [_short(effects), Text("")]
    for titles, answer in grouped(effects.answers):
        text = Text(f"{', '.join(titles).capitalize()}: ", style="bold")
        text.append(answer.text, style="" if answer.found else "yellow")
        parts.append(text)
    if not (effects.factors and tables):
        return parts
    parts += [Text(""), _table(effects)]
    sentences = (
        f"From {quantity(effects.trials, 'trial')}, {effects.complete} of them complete, by a model of the whole "
        "search space.",
        "Importance is the share of the variance over the space, without noise, that a parameter has a part in (90% "
        "interval).",
        costs(effects),
        f"Single trials of one configuration have a standard deviation of about {_noise(effects)}.",
    )
    parts.append(Text(" ".join(filter(None, sentences)), style="dim"))
    return parts


def grouped(answers: Iterable[Answer]) -> list[tuple[list[str], Answer]]:
    """Each answer once, in order, with the questions that have it."""
    titles: dict[str, list[str]] = {}
    first: dict[str, Answer] = {}
    for answer in answers:
        titles.setdefault(answer.text, []).append(answer.title)
        first.setdefault(answer.text, answer)
    return [(titles[text], answer) for text, answer in first.items()]


def _short(effects: Effects) -> RenderableType:
    """A line for each question: the first clause of its answer, without intervals."""
    table = Table.grid(padding=(0, 2))
    for answer in effects.answers:
        plain = re.sub(r" \([^)]*\)", "", answer.text)
        first = re.split(r"; |: without|\. ", plain)[0].rstrip(".")
        table.add_row(Text(answer.title, style="bold"), Text(first, style="" if answer.found else "yellow"))
    return table


def costs(effects: Effects) -> str:
    """A sentence about the costs in the answers; empty if no answer has one."""
    if effects.thin or not any(answer.found for answer in effects.answers):
        return ""
    return f"A cost is {effects.objective.cost(ratio=effects.ratio)}, at the best of the other parameters."


def _noise(effects: Effects) -> str:
    if effects.noise is None:
        return "an unknown size"
    return f"{effects.noise.value:.0%} of {effects.objective.called}" if effects.ratio else short(effects.noise.value)


def _table(effects: Effects) -> Table:
    table = Table(title="Which parameter matters", title_justify="left")
    table.add_column("parameter")
    for heading in ("importance", "90% interval", "alone"):
        table.add_column(heading, justify="right")
    table.add_column("best value")
    for effect in effects.factors:
        total, first = effect.importance.total, effect.importance.first
        optimum = effect.profile.optimum
        if optimum is not None:
            best = _number(optimum)
        else:
            ordered = sorted(effect.profile.levels, key=lambda level: -level.chance)[:LISTED]
            best = ", ".join(f"{level.label} {level.chance:.2f}" for level in ordered if level.chance >= 0.01)
        interval = f"{total.low:.2f} to {total.high:.2f}"
        table.add_row(Text(effect.name), f"{total.value:.2f}", interval, f"{first.value:.2f}", Text(best))
    table.caption = "best value: a number with its 90% interval, or choices with their probability of being the best"
    table.caption_justify = "left"
    return table


def _number(estimate: Estimate) -> str:
    return f"{short(estimate.value)} ({short(estimate.low)} to {short(estimate.high)})"
