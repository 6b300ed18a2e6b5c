"""The arms of a comparison: searches that differ only in their dropout, and what could make a comparison unfair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import optuna

from dropopt.config import Baseline, ConfigError, RunConfig, TrainConfig
from dropopt.known import may_be_moved
from dropopt.study.define.space import Space
from dropopt.study.store.keys import BASE, DATA
from dropopt.study.store.queries import search_of
from dropopt.study.store.trial_budget import budget_spent

_RATE_SCHEDULES = frozenset(get_args(Baseline.model_fields["schedule"].annotation))


@dataclass(frozen=True)
class Arm:
    """One arm, before or after its search."""

    #: What it is called in tables.
    name: str
    #: The name of its study in the storage.
    study: str
    #: Whether it searches an established method, or no dropout, and not the engine.
    baseline: bool
    #: The configuration that all its trials share.
    base: RunConfig
    #: The searched settings of training: the range or the choices of each, as text. None if they are not known.
    training: Mapping[str, str] | None
    #: The hash of each split of its data; None before its search.
    data: Mapping[str, str] | None = None
    #: The number of finished trials, or the number that its search will have.
    trials: int = 0


def arm_of_study(name: str, study: optuna.Study) -> Arm:
    """Describe an existing study as an arm. Raises ConfigError if it is no search of dropopt."""
    if (search := search_of(study)) is not None:
        raise ConfigError(f"study {study.study_name!r} is a confirmation; give the study {search}")
    if BASE not in study.user_attrs:
        raise ConfigError(f"study {study.study_name!r} was not run by dropopt run, so it cannot be an arm")
    base = RunConfig.parse(study.user_attrs[BASE])
    trials = study.get_trials(deepcopy=False)
    ranges = {
        parameter: _text(distribution)
        for trial in trials
        for parameter, distribution in trial.distributions.items()
        if _of_training(parameter, distribution)
    }
    return Arm(
        name=name,
        study=study.study_name,
        baseline=isinstance(base.engine, Baseline),
        base=base,
        training=ranges if any(trial.params for trial in trials) else None,
        data=study.user_attrs.get(DATA),
        trials=budget_spent(trials),
    )


def arm_of_space(name: str, study: str, space: Space, base: RunConfig, trials: int) -> Arm:
    """Describe a search that will be run as an arm."""
    ranges = {one.name: _text(one.distribution(classes=10)) for one in space.parameters if one.section == "train"}
    return Arm(name, study, space.engine is Baseline, base, ranges, trials=trials)


def check_comparable(arms: Sequence[Arm]) -> list[str]:
    """Check that ``arms`` differ only in their dropout.

    Returns:
        What makes the comparison less fair, one sentence each: other ranges of training settings, other
            objectives, other budgets.

    Raises:
        ConfigError: There are fewer than two arms, two have the same name or study, or they differ in their data,
            their network, their task or a setting of training that is not searched.
    """
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs two or more arms, got {len(arms)}")
    for kind in ("name", "study"):
        values = [getattr(arm, kind) for arm in arms]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(f"two arms have the same {kind}: {twice}; give each arm once")
    first, notes = arms[0], []
    for arm in arms[1:]:
        if difference := _difference(first, arm):
            raise ConfigError(f"arms {first.name} and {arm.name} cannot be compared: {difference}")
        if what := _other_ranges(first.training, arm.training):
            notes.append(f"{first.name} and {arm.name} do not search the same settings of training: {what}")
    goals = {arm.name: arm.base.task.judged_by for arm in arms}
    if len(set(goals.values())) > 1:
        score = first.base.task.score
        what = ", ".join(f"{name} {'loss' if by == 'loss' else score}" for name, by in goals.items())
        notes.append(f"the searches of the arms do not optimise the same: {what}")
    if len({arm.trials for arm in arms}) > 1:
        budgets = ", ".join(f"{arm.name} {arm.trials}" for arm in arms)
        notes.append(f"the arms do not have the same number of trials: {budgets}")
    return notes


def _other_ranges(first: Mapping[str, str] | None, other: Mapping[str, str] | None) -> str:
    """Name the settings of training that two arms search over other ranges; empty if there are none."""
    if first is None or other is None:
        return ""
    both = ((name, *(ranges.get(name, "not searched") for ranges in (first, other))) for name in {*first, *other})
    return ", ".join(f"{name} ({one} and {two})" for name, one, two in sorted(both) if one != two)


def _difference(first: Arm, other: Arm) -> str:
    """Say how two arms differ in what they must share; empty if they do not."""
    known = first.data is not None and other.data is not None
    if known and first.data != other.data:
        return "their data have different contents"
    moved = known and may_be_moved(first.base.data.name, other.base.data.name)
    for section in ("data", "model", "task", "train"):
        one, two = (getattr(arm.base, section).model_dump(mode="json") for arm in (first, other))
        searched = {*(first.training or ()), *(other.training or ()), "device", "seed", "root", "objective"}
        for name in one:
            if moved and (section, name) == ("data", "name"):
                continue
            if one[name] != two[name] and not any(key == name or key.startswith(f"{name}_") for key in searched):
                return f"{section}.{name} is {one[name]!r} and {two[name]!r}"
    return ""


def _of_training(parameter: str, distribution: Any) -> bool:
    """Whether a parameter is a setting of training: ``lr``, or ``lr_adamw`` with a range for each optimizer.

    The ``schedule`` of a drop rate has the name of that of the learning rate, and other choices.
    """
    if parameter == "schedule" and _RATE_SCHEDULES.issuperset(getattr(distribution, "choices", ())):
        return False
    return any(parameter == name or parameter.startswith(f"{name}_") for name in TrainConfig.model_fields)


def _text(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return "one of " + ", ".join(map(str, distribution.choices))
    return f"{distribution.low:g} to {distribution.high:g}" + (", logarithmic" if distribution.log else "")
