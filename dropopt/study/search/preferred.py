"""Trials with settings that are known in advance: the parameters with which a search space expresses them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dropopt.config import RunConfig
from dropopt.study.define.parameter import Choice, Parameter
from dropopt.study.define.space import Space


def preferred_values(
    space: Space, base: RunConfig, settings: Mapping[str, Any], train: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the preferred value of each parameter of ``space``, by name.

    Args:
        space: The search space.
        base: The configuration that all trials share. Its settings are preferred where no others are given.
        settings: Preferred settings of the engine.
        train: Preferred settings of training, with the ``optimizer`` that they were chosen for; a learning rate is
            preferred only for this optimizer. A range without a preferred value is used in its middle.
    """
    train, found = train or {}, {}
    for parameter in space.bound(base).parameters:
        if parameter.section == "engine":
            found[parameter.name] = settings.get(parameter.setting, getattr(base.engine, parameter.setting, None))
        elif parameter.choices:
            found[parameter.name] = train.get(parameter.setting, getattr(base.train, parameter.setting))
        elif parameter.setting in train and _is_for(parameter, train, space, base):
            found[parameter.name] = train[parameter.setting]
    return found


def _is_for(parameter: Parameter, train: Mapping[str, Any], space: Space, base: RunConfig) -> bool:
    """Whether a range of training holds for the optimizer that the settings ``train`` were chosen for."""
    tuned = train.get("optimizer", base.train.optimizer)
    if parameter.case is not None:
        return bool(parameter.case == tuned)
    fixed = space.fixed.get("train", {}).get("optimizer", base.train.optimizer)
    searched = [one.choices for one in space.parameters if (one.section, one.setting) == ("train", "optimizer")]
    return tuned in (searched[0] if searched else (fixed,))


class PreferringTrial:
    """Stands in for a trial, and chooses the preferred values.

    Args:
        preferred: The preferred value of each parameter, by name.
        clip: Whether a number outside of its range moves to the nearest end of it. Otherwise the middle of the range is
            chosen, as for a parameter without a preferred value: the geometric middle on a logarithmic scale.
    """

    def __init__(self, preferred: Mapping[str, Any], *, clip: bool = False) -> None:
        self._preferred = preferred
        self._clip = clip
        self.chosen: dict[str, Choice] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The preferred number, or one that is legal."""
        value = self._number(name, low, high, log=log)
        if step is not None:
            value = min(low + step * round((value - low) / step), high)
        self.chosen[name] = value
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The preferred integer, or the one nearest to a legal number."""
        value = low + step * round((self._number(name, low, high, log=log) - low) / step)
        self.chosen[name] = value = value if value <= high else value - step
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The preferred choice, or the first."""
        preferred = self._preferred.get(name)
        same = [choice for choice in choices if choice == preferred and type(choice) is type(preferred)]
        self.chosen[name] = choice = (same or list(choices))[0]
        return choice

    def _number(self, name: str, low: float, high: float, *, log: bool) -> float:
        preferred = self._preferred.get(name)
        if isinstance(preferred, int | float) and not isinstance(preferred, bool):
            if low <= preferred <= high:
                return float(preferred)
            if self._clip:
                return float(low if preferred < low else high)
        return math.sqrt(low * high) if log else (low + high) / 2
