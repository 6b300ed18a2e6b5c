"""The numbers of the charts about trials, which the dashboard and the report draw in their own ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.anchor_names import name_of
from dropopt.study.store.history import thinned
from dropopt.study.store.keys import ACCURACY, ANCHOR, SECONDS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

#: Curves of good trials besides the best one, and of pruned trials.
GOOD, PRUNED = 4, 20
#: Points of a curve, points of a scatter plot, and rows of a heatmap: a chart must stay small.
CURVE_POINTS, SCATTER_POINTS, PLACES = 60, 400, 40
#: Kinds of trials, in the order in which they are drawn: the last is on top.
KINDS = ("pruned", "complete", "anchor", "best")


@dataclass(frozen=True)
class Curve:
    """The value of a trial after each epoch, as it is shown."""

    name: str
    kind: str  # one of KINDS
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """What a trial cost and reached."""

    trial: int
    kind: str  # one of KINDS
    seconds: float
    score: float


@dataclass(frozen=True)
class Cost:
    """Score against cost."""

    points: tuple[Point, ...]
    score: str  # what the score is
    way: str  # which scores are better


@dataclass(frozen=True)
class Table:
    """A number for each row at each epoch of the best trial."""

    trial: int
    names: tuple[str, ...]
    epochs: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]


def curves(shot: Snapshot) -> list[Curve]:
    """The best trial, other good trials, the anchors and some of the pruned trials."""
    best = shot.leader
    good = [trial for trial in shot.ranked if trial is not best and ANCHOR not in trial.user_attrs][:GOOD]
    anchors = [trial for trial in shot.trials if trial.number in shot.anchors and trial is not best]
    pruned = [trial for trial in shot.trials if trial.state.name == "PRUNED" and ANCHOR not in trial.user_attrs]
    chosen = [(trial, "pruned") for trial in thinned(pruned, PRUNED)]
    chosen += [(trial, "complete") for trial in reversed(good)] + [(trial, "anchor") for trial in anchors]
    chosen += [(best, "best")] if best is not None else []
    return [curve for trial, kind in chosen if len((curve := _curve(shot, trial, kind)).epochs) > 1]


def cost(shot: Snapshot) -> Cost | None:
    """The metric of each trial, or its value if the metric is not known, and its training time; None without trials."""
    ended = [trial for trial in shot.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    has_accuracy = any(isinstance(trial.user_attrs.get(ACCURACY), float) for trial in ended)
    points = [point for trial in ended if (point := _point(shot, trial, accuracy=has_accuracy)) is not None]
    if shot.several or len(points) < 2:
        return None
    rest = [point for point in points if point.kind in ("pruned", "complete")]
    kept = thinned(rest, SCATTER_POINTS) + [point for point in points if point.kind in ("anchor", "best")]
    if has_accuracy:
        return Cost(tuple(kept), f"validation {shot.score}", shot.score_way)
    return Cost(tuple(kept), shot.metric, shot.scale.way)


def rates(shot: Snapshot) -> Table | None:
    """The applied drop rate of the best trial by layer and epoch; None if it was not stored or is 0 throughout."""
    if shot.leader is None or shot.history is None or not any(map(any, shot.history.rates.values())):
        return None
    return _table(shot.leader.number, shot.history.rate_epochs, shot.history.rates)


def weights(shot: Snapshot) -> Table | None:
    """The blend of the best trial by method and epoch; None if it has at most one method, or was not stored."""
    if shot.leader is None or shot.history is None:
        return None
    used = {name: values for name, values in shot.history.weights.items() if any(values)}
    return _table(shot.leader.number, shot.history.rate_epochs, used) if len(used) > 1 else None


def is_logarithmic(found: Sequence[Curve]) -> bool:
    """Whether the values of curves are all positive and of different orders of magnitude."""
    values = [value for curve in found for value in curve.values]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 20


def short(number: float) -> float:
    """A number with five significant digits, which takes less room in JSON."""
    return float(f"{number:.5g}")


def _table(trial: int, epochs: tuple[int, ...], columns: Any) -> Table:
    names = thinned(list(columns), PLACES)
    kept = thinned(range(len(epochs)), CURVE_POINTS)
    rows = tuple(tuple(columns[name][index] for index in kept) for name in names)
    return Table(trial, tuple(names), tuple(epochs[index] for index in kept), rows)


def _curve(shot: Snapshot, trial: FrozenTrial, kind: str) -> Curve:
    steps = [(step, value) for step, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)]
    steps = thinned(steps, CURVE_POINTS)
    entry = name_of(trial)
    name = f"trial {trial.number}" + (f" ({entry})" if entry else "")
    return Curve(
        name, kind, tuple(step for step, _ in steps), tuple(short(shot.scale.read(value)) for _, value in steps)
    )


def _point(shot: Snapshot, trial: FrozenTrial, *, accuracy: bool) -> Point | None:
    score = trial.user_attrs.get(ACCURACY)
    if not accuracy:
        score = None if shot.several or trial.value is None else shot.scale.read(trial.value)
    seconds = trial.user_attrs.get(SECONDS)
    if seconds is None:
        seconds = (trial.duration or timedelta()).total_seconds()
    if not isinstance(score, int | float) or not math.isfinite(score) or seconds < 0:  # the clock was set back
        return None
    kind = "complete" if trial.state.name == "COMPLETE" else "pruned"
    if trial.number in shot.anchors:
        kind = "anchor"
    if shot.leader is not None and trial.number == shot.leader.number:
        kind = "best"
    return Point(trial.number, kind, short(seconds), short(score))
