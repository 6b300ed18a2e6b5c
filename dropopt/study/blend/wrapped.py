"""The wrapped sampler: what the efficacy sampler reads from it, and what it hides from it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from optuna.samplers import BaseSampler, BruteForceSampler, PartialFixedSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


def fixed_params(base: BaseSampler) -> dict[str, Any]:
    """The parameters that ``base``, or a sampler that it wraps in turn, holds fixed."""
    fixed: dict[str, Any] = {}
    for sampler in _chain(base):
        if isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
    return fixed


def enumerates(base: BaseSampler) -> bool:
    """Whether ``base`` enumerates the search space, which it cannot do with continuous shares in it."""
    return any(isinstance(sampler, BruteForceSampler) for sampler in _chain(base))


def hide(study: Study, trial: FrozenTrial, names: frozenset[str]) -> tuple[Any, FrozenTrial]:
    """``study`` and ``trial`` without the parameters ``names``."""
    return _Hidden(study, names), _without(trial, names)


def _chain(sampler: Any) -> Iterator[Any]:
    """A sampler and those that it wraps, by the attribute that Optuna's own wrappers have."""
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "_base_sampler", None)


def _without(trial: FrozenTrial, names: frozenset[str]) -> FrozenTrial:
    """A copy of ``trial`` without the parameters ``names``."""
    reduced = copy.copy(trial)
    reduced._params = {name: value for name, value in trial.params.items() if name not in names}
    reduced._distributions = {name: d for name, d in trial.distributions.items() if name not in names}
    return reduced


class _Hidden:
    """A proxy of a study or storage whose trials lack some parameters."""

    def __init__(self, target: Any, names: frozenset[str]) -> None:
        self._target, self._names = target, names

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name == "_storage":
            return _Hidden(value, self._names)
        if name in ("get_trials", "_get_trials", "get_all_trials"):
            return lambda *a, **k: [_without(trial, self._names) for trial in value(*a, **k)]
        return value
