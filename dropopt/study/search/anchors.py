"""Anchors: the first trials of a study, with which its best trial is compared.

The anchors are no dropout, plain dropout methods at customary rates, own patterns with equal shares, and the engine's
default. An anchor that the search space cannot express is left out. Each anchor is trained in the middle of the ranges
of the learning rate and the other settings of training. The best trial is at least as good as each anchor, and the
summary can say whether dropout helps at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import METHODS, STAGES, Baseline, ConfigError, EngineConfig, RunConfig
from dropopt.numbers import fixed
from dropopt.study.define.parameter import Choice
from dropopt.study.define.space import Space
from dropopt.study.search.preferred import PreferringTrial, preferred_values
from dropopt.study.store.anchor_names import NO_DROPOUT, without_dropout
from dropopt.study.store.keys import ACCURACY, ANCHOR, APPLIED
from dropopt.study.store.queries import best
from dropopt.study.store.scale import Scale

#: A study of fewer trials has no anchors, because they would be most of its trials.
MIN_TRIALS = 10

#: Two trainings of one configuration with different seeds differ by up to about this fraction of their smoothed loss
#: (small CNN, 5,000 images of Fashion-MNIST). A smaller difference is not called an improvement.
SEED_NOISE = 0.05

#: Customary rates of the plain methods, by the engine's pattern and by the baseline's kind.
_PATTERNS = {"element": 0.1, "channel": 0.2, "spatial": 0.2}
_KINDS = {"dropout": 0.1, "dropout2d": 0.2, "dropblock": 0.2, "stochastic_depth": 0.2}

#: Settings with which eq. (15) reduces to the adaptive rate, and this rate is r0 in all layers and at all times.
_CONSTANT: Mapping[str, Any] = {
    "alpha": 0.0,
    **{f"w_{method}": float(method == "adaptive") for method in METHODS},
    "allocation": "uniform",
    "reading": "sound",
    "efficacy": "fixed",
    "drop_updates": False,
    "sites": "auto",
}


#: Without a search, own patterns with equal shares have the lowest loss on several data sets.
_EVEN: Mapping[str, Any] = {"pattern": "own", **{f"w_{method}": 1 / len(METHODS) for method in METHODS}}


@dataclass(frozen=True)
class Anchor:
    """A configuration that the best trial is compared with."""

    name: str
    #: The values of its settings, for those that the space searches.
    settings: Mapping[str, Any]
    #: Whether an engine matches the name. It may not, because a space may fix a setting at another value.
    holds: Callable[[Any], bool]


def enqueue_anchors(study: optuna.Study, space: Space, base: RunConfig, classes: int) -> None:
    """Enqueue the anchors that ``space`` can express as the next trials of ``study``.

    Args:
        study: The study.
        space: Its search space.
        base: The configuration that all trials share.
        classes: The number of classes of the data.
    """
    for name, parameters in anchors_of(space, base, classes).items():
        study.enqueue_trial(parameters, user_attrs={ANCHOR: name}, skip_if_exists=True)


def anchors_of(
    space: Space, base: RunConfig, classes: int, train: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Choice]]:
    """Return the parameters of each anchor that ``space`` can express, by name, in the order of their trials.

    Args:
        space: The search space.
        base: The configuration that all trials share.
        classes: The number of classes of the data.
        train: Settings of training. Default: the middle of each range.
    """
    found: dict[str, dict[str, Choice]] = {}
    for anchor in _of_baselines() if space.engine is Baseline else _of_engine():
        stand_in = PreferringTrial(preferred_values(space, base, anchor.settings, train))
        try:
            run = space.suggest(stand_in, classes, base)
        except ConfigError:  # the settings are not valid together in this space
            continue
        if anchor.holds(run.engine) and stand_in.chosen not in found.values():
            found[anchor.name] = stand_in.chosen
    # Without an anchor that has dropout there is nothing to compare.
    return found if found.keys() - {NO_DROPOUT} else {}


def _of_engine() -> list[Anchor]:
    plain = [
        Anchor(
            f"{pattern} {rate:g}",
            {**_CONSTANT, "r0": rate, "pattern": pattern},
            partial(is_plain, pattern, rate),
        )
        for pattern, rate in _PATTERNS.items()
    ]
    nothing = Anchor(
        NO_DROPOUT,
        {**_CONSTANT, "r0": 0.0, "pattern": "element"},
        # In the printed reading a structured rate of 0 drops everything.
        lambda engine: engine.r0 == 0 and engine.reading == "sound",
    )
    return [
        nothing,
        *plain,
        Anchor("own patterns", _EVEN, _is_even),
        Anchor("engine's default", {}, lambda engine: True),
    ]


def _is_even(engine: EngineConfig) -> bool:
    """Whether each sample is masked by one of all methods, which are equally probable."""
    return (
        engine.pattern == "own"
        and len({weight for stage in range(len(STAGES)) for weight in engine.weights(stage)}) == 1
    )


def is_plain(pattern: str, rate: float, engine: EngineConfig) -> bool:
    """Whether ``engine`` drops with a pattern at a constant rate, the same at all places."""
    weights = [engine.weights(stage) for stage in range(len(STAGES))]
    alone = all(first > 0 and not any(others) for first, *others in weights)
    constant = engine.alpha == 0 and engine.reading == "sound" and engine.efficacy == "fixed"
    # The adaptive method's own pattern drops units independently.
    alike = engine.pattern == pattern and engine.allocation == "uniform"
    alike |= engine.pattern == "own" and pattern == "element"
    return alone and constant and alike and not engine.drop_updates and math.isclose(engine.r0, rate)


def _of_baselines() -> list[Anchor]:
    nothing = Anchor(NO_DROPOUT, {"kind": "none", "p": 0.0}, lambda engine: engine.kind == "none" or engine.p == 0)
    plain = [
        Anchor(
            f"{kind} {rate:g}",
            {"kind": kind, "p": rate, "schedule": "constant", "sites": "auto"},
            partial(_is_baseline, kind, rate),
        )
        for kind, rate in _KINDS.items()
    ]
    return [nothing, *plain]


def _is_baseline(kind: str, rate: float, engine: Baseline) -> bool:
    return engine.kind == kind and math.isclose(engine.p, rate) and engine.schedule == "constant"


@dataclass(frozen=True)
class Row:
    """One anchor in the comparison. Values are those of the storage: lower is better."""

    name: str
    trial: int
    loss: float
    #: Of the validation split; None if it is not known.
    accuracy: float | None
    #: How far the best trial's loss is above the anchor's; below 0 if it is better.
    difference: float
    #: Whether the difference is a fraction of the anchor's loss. It is in units of the loss if any loss is 0 or less.
    relative: bool = True
    #: The difference in units of the loss.
    gap: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """The best trial and the anchors."""

    #: From the lowest loss to the highest.
    rows: tuple[Row, ...]
    verdict: str
    #: The number of the best trial, which may itself be an anchor.
    leader: int = -1


def compare(trials: Iterable[FrozenTrial], scale: Scale) -> Comparison | None:
    """Compare the best trial with the completed anchors; None if there are none. ``scale`` says how it is told."""
    trials = list(trials)
    leader = best(trials)
    anchors = [trial for trial in trials if ANCHOR in trial.user_attrs and best([trial]) is not None]
    if leader is None or leader.value is None or not anchors:
        return None
    rows = [_row(trial, leader.value) for trial in anchors]
    rows.sort(key=lambda row: (row.loss, row.trial))
    return Comparison(tuple(rows), _verdict(leader, trials, rows, scale), leader.number)


def _row(trial: FrozenTrial, lowest: float) -> Row:
    loss = trial.value or 0.0
    gap, relative = lowest - loss, lowest > 0
    name, accuracy = trial.user_attrs[ANCHOR], trial.user_attrs.get(ACCURACY)
    return Row(name, trial.number, loss, accuracy, gap / loss if relative else gap, relative, gap)


def _verdict(leader: FrozenTrial, trials: Sequence[FrozenTrial], rows: Sequence[Row], scale: Scale) -> str:
    """Say whether dropout helps, and whether the best trial is better than the anchors."""
    lowest = leader.value or 0.0
    what, value = scale.name, scale.text(lowest)
    # The size of the noise was measured for the loss only.
    size = f"; single seeds often differ by {SEED_NOISE:.0%}, and by far more near 0" if what == "loss" else ""
    noise = f"smoothed validation {what}, one seed each{size}"
    of = f"an {what} of" if what == "error" else "a loss of" if what == "loss" else what  # a metric is a name
    if _drops_nothing(leader):
        told = f"the best trial has no dropout, with {of} {value}"
        rival = best(trial for trial in trials if not _drops_nothing(trial))
        if rival is not None:
            told = f"dropout does not help here: {told}"
            told += f"; with dropout, the best is {scale.text(rival.value)} (trial {rival.number})"
            told += ", and the difference may be chance" if _may_be_chance(rival.value or 0.0, lowest) else ""
        return f"{told} ({noise})"
    nothing = best(filter(_drops_nothing, trials))
    if nothing is not None and _may_be_chance(nothing.value or 0.0, lowest):
        values = f"its {what} is {value}, and {scale.text(nothing.value)} without dropout"
        return f"the best trial is not clearly better than no dropout: {values} ({noise})"
    first = rows[0]
    if first.trial == leader.number:
        return f"no trial is better than the anchor {first.name}, with {of} {value} ({noise})"
    amount = f"{-first.difference:.1%}" if first.relative and not scale.complement else fixed(-first.gap)[0]
    where = "above" if scale.maximise else "below"
    gain = f"the best trial's {what} is {amount} {where} that of the best anchor, {first.name}"
    within = ", which may be chance" if _may_be_chance(first.loss, lowest) else ""
    return f"{gain}{within} ({noise})"


def _drops_nothing(trial: FrozenTrial) -> bool:
    """Whether a trial has no dropout: the anchors without it, and others whose rates are 0, as in a portfolio."""
    return without_dropout(trial.user_attrs.get(ANCHOR, "")) or trial.user_attrs.get(APPLIED) == 0


def _may_be_chance(loss: float, lowest: float) -> bool:
    """Whether a loss is not clearly above the lowest one. Of values that may be 0, the noise is not known."""
    return lowest / loss - 1 > -SEED_NOISE if lowest > 0 else lowest >= loss
