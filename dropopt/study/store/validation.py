"""Attributes that another program has damaged: one whose type is wrong counts as absent.

Anybody can change the attributes of a study with Optuna, the dashboard or SQL. Each reader knows what to do without an
attribute, because those of earlier versions are missing too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from dropopt.config import ConfigError
from dropopt.facts import Facts
from dropopt.study.store import keys
from dropopt.study.store.confirmations import Entrant, SplitReading
from dropopt.study.store.errors import StorageError

_Table = dict[str, Any]
_Positive = Annotated[StrictInt, Field(ge=1)]
_Count = Annotated[StrictInt, Field(ge=0)]
_Seconds = Annotated[StrictFloat | StrictInt, Field(ge=0, lt=math.inf)]


@dataclass(frozen=True)
class _Named:
    """A section of a configuration; further keys are allowed."""

    name: str


@dataclass(frozen=True)
class _Trained:
    """What is trained on what."""

    data: _Named
    model: _Named


@dataclass(frozen=True)
class _Config(_Trained):
    """What every stored configuration has."""

    train: _Table


@dataclass(frozen=True)
class _Train:
    """What every stored recipe of training has."""

    epochs: _Positive
    optimizer: str
    batch_size: _Positive


@dataclass(frozen=True)
class _Base(_Trained):
    """What the configuration of a study has, from which reports are made."""

    train: _Train


@dataclass(frozen=True)
class _MadeWith:
    """How a study was begun."""

    command: str = ""
    versions: _Table = field(default_factory=dict)
    git: _Table | None = None


@dataclass(frozen=True)
class _Source:
    """A file of the user's code."""

    sha256: str


@dataclass(frozen=True)
class _Code:
    """The user's code from a trial on."""

    since: StrictInt
    modules: dict[str, _Source]


@dataclass(frozen=True)
class _Plan:
    """What every stored plan has."""

    n_trials: _Positive
    sampler: str
    pruner: str
    seed: StrictInt
    trial_timeout: StrictFloat | StrictInt | None = None
    trial_memory: _Positive | None = None


def _of(kind: Any, *names: str) -> dict[str, TypeAdapter[Any]]:
    return dict.fromkeys(names, TypeAdapter(kind))


_TRIAL: _Table = {
    **_of(StrictStr, keys.WORKER, keys.REASON, keys.MESSAGE, keys.TRACE, keys.SOURCE, keys.ANCHOR, keys.PORTFOLIO),
    **_of(StrictInt, keys.SEED, keys.BEST_EPOCH, keys.EPOCHS, keys.PARAMETERS),
    **_of(StrictInt, keys.RETRY_OF, keys.PREVIOUS, keys.ATTEMPT, keys.CONTINUES),
    **_of(StrictFloat | StrictInt, keys.ACCURACY, keys.BEST_LOSS, keys.APPLIED, keys.VAL_ECE),
    **_of(StrictFloat | StrictInt, keys.TEST_LOSS, keys.TEST_ACCURACY, keys.TEST_ECE),
    **_of(_Seconds, keys.SECONDS),
    **_of(StrictBool, keys.RETRY),
    **_of(dict[str, Any], keys.LEASE),
    **_of(_Config, keys.CONFIG),
}
_SYSTEM: _Table = {
    **_of(dict[str, Any], "fixed_params"),
    **_of(dict[str, list[Any] | dict[str, list[float]]], keys.HISTORY),
}
_STUDY: _Table = {
    **_of(StrictStr, keys.SPACE, keys.FINGERPRINT, keys.SPACE_TEXT, keys.COMMAND, keys.QUEUE, keys.ID, keys.CONFIRMS),
    **_of(StrictStr, keys.TESTS, keys.OF, keys.CHOSEN_BY),
    **_of(Literal["loss", "accuracy"], keys.JUDGED_BY),
    **_of(_Base, keys.BASE),
    **_of(Facts, keys.FACTS),
    **_of(_Plan, keys.PLAN),
    **_of(_MadeWith, keys.MADE_WITH),
    **_of(dict[str, Any], keys.DATA, keys.PRIOR, keys.PORTFOLIO),
    **_of(StrictFloat | StrictInt, keys.COMPLEXITY),
    **_of(_Count, keys.CLASSES, keys.SEEDS),
    **_of(list[str], keys.SITES),
    **_of(list[_Code], keys.CODE),
    **_of(list[Entrant], keys.ENTRANTS),
    **_of(list[SplitReading], keys.READINGS),
}


def valid_trial(trial: FrozenTrial) -> FrozenTrial:
    """Return ``trial`` without the attributes whose type is wrong; the same object if there are none.

    A complete trial without a value counts as failed.
    """
    user, system = _wrong(trial.user_attrs, _TRIAL), _wrong(trial.system_attrs, _SYSTEM)
    empty = trial.state == TrialState.COMPLETE and not trial.values
    if not user and not system and not empty:
        return trial
    valid = copy.copy(trial)
    valid.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in user}
    valid.system_attrs = {key: value for key, value in trial.system_attrs.items() if key not in system}
    if empty:
        valid.state = TrialState.FAIL
    return valid


def without_conflicts(
    trials: Iterable[FrozenTrial], first: Callable[[str], BaseDistribution | None] = lambda name: None
) -> Iterator[FrozenTrial]:
    """Yield ``trials`` without the parameters that earlier trials have with an incompatible distribution.

    Optuna refuses such a trial, except in a journal when it is added as a whole. Samplers fail at it.

    Args:
        trials: Trials, by number.
        first: Returns the distribution of a parameter in the first of the trials before these; None if none has it.
    """
    seen: dict[str, BaseDistribution] = {}
    for trial in trials:
        wrong = set()
        for name, distribution in trial.distributions.items():
            if name not in seen:
                seen[name] = first(name) or distribution
            if conflicts(seen[name], distribution):
                wrong.add(name)
        yield _without_parameters(trial, wrong) if wrong else trial


def _without_parameters(trial: FrozenTrial, names: set[str]) -> FrozenTrial:
    rest = copy.copy(trial)
    rest.params = {name: value for name, value in trial.params.items() if name not in names}
    rest.distributions = {name: kind for name, kind in trial.distributions.items() if name not in names}
    return rest


def conflicts(first: BaseDistribution, other: BaseDistribution) -> str:
    """Say why Optuna does not accept a second distribution of a parameter in one study; empty if it does."""
    try:
        check_distribution_compatibility(first, other)
    except ValueError as error:
        return str(error)
    return ""


def valid_study_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attributes of a study without those whose type is wrong."""
    wrong = _wrong(attributes, _STUDY)
    return {key: value for key, value in attributes.items() if key not in wrong}


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise :class:`StorageError` if ``what`` is read inside the block, and Optuna cannot read it."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise StorageError(
            f"{what} cannot be read from the storage ({error!r}); restore a copy of it, or give another --storage"
        ) from None


def _wrong(attributes: Mapping[str, Any], table: _Table) -> set[str]:
    wrong = set()
    for key, value in attributes.items():
        if (kind := table.get(key)) is not None:
            try:
                kind.validate_python(value)
            except ValidationError:
                wrong.add(key)
    return wrong
