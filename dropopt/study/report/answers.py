"""The five questions of dropout, answered from all trials of a study, with what its best trials do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dropopt.numbers import short, span
from dropopt.study.show.effects_report import grouped
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.history import History, history_of

#: Trials that are compared with the best one.
TRIALS = 5
#: Parameters that are a rate.
RATES = ("r0", "p")


def answers(shot: Snapshot) -> list[tuple[str, str]]:
    """Each question with its answer: what the study says about it, and what the best trial does."""
    if shot.leader is None or shot.effects is None:
        return []
    describe = {"how much": _how_much, "where": _where, "when": _when}
    found = []
    for titles, first in grouped(shot.effects.answers):
        if len(titles) > 1:
            found.append((", ".join(titles).capitalize(), first.text))
    shared = {text for _, text in found}
    for answer in shot.effects.answers:
        said = "" if answer.text in shared else answer.text
        more = describe[answer.question](shot) if answer.question in describe else ""
        if text := f"{said} {more}".strip():
            found.append((answer.title, text))
    return found


def _how_much(shot: Snapshot) -> str:
    """The rates of the best trials."""
    trials = [(trial, history) for trial in shot.ranked[:TRIALS] if (history := history_of(trial)) and history.rates]
    if trials:
        (first, history), *_ = trials
        means = [_mean(one.rates.values()) for _, one in trials]
        others = f"; the mean rates of the {len(means)} best trials are {span(means)}" if len(means) > 1 else ""
        if not any(map(any, history.rates.values())):
            return f"Trial {first.number}, the best one, has no dropout{others}."
        return (
            f"Trial {first.number} drops {_mean(history.rates.values()):.3f} on average over layers and epochs{others}."
        )
    for name in RATES:
        rates = (trial.params.get(name) for trial in shot.ranked[:TRIALS])
        values = [rate for rate in rates if isinstance(rate, int | float)]  # a choice may be a word, or nothing
        if values:
            return (
                f"{name} is {short(values[0])} in the best trial; "
                f"{short(min(values))} to {short(max(values))} in the best ones."
            )
    return ""


def _where(shot: Snapshot) -> str:
    """The layers with the highest and the lowest rate."""
    means = {place: _mean([values]) for place, values in _history(shot).rates.items()}
    if len(means) < 2 or not any(means.values()):
        return ""
    high, low = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    if means[high] - means[low] < 0.005:
        return f"All {len(means)} layers have nearly the same rate, {span(list(means.values()))}."
    return f"Most at layer {high} ({means[high]:.3f} on average), least at layer {low} ({means[low]:.3f})."


def _when(shot: Snapshot) -> str:
    """The change of the mean rate from the first epoch to the last."""
    history = _history(shot)
    if len(history.rate_epochs) < 2 or not any(map(any, history.rates.values())):
        return ""
    first, last = (_mean([[values[index] for values in history.rates.values()]]) for index in (0, -1))
    start, end = history.rate_epochs[0], history.rate_epochs[-1]
    if abs(first - last) < 0.005:
        return f"The mean rate hardly changes: {first:.3f} after epoch {start}, {last:.3f} after epoch {end}."
    word = "falls" if last < first else "rises"
    return f"The mean rate {word} from {first:.3f} after epoch {start} to {last:.3f} after epoch {end}."


def _history(shot: Snapshot) -> History:
    return shot.history or History()


def _mean(rows: Iterable[Sequence[float]]) -> float:
    values = [value for row in rows for value in row]
    return sum(values) / len(values) if values else 0.0
