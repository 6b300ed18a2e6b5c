"""Portfolios: configurations that did well on other data, with which a new study begins after its anchors.

A portfolio is a YAML file. Those that ship with dropopt are in ``search_spaces/portfolios``:

    schema: 1
    provenance: {...}             where the entries come from; any mapping
    entries:                      the most useful first
      - engine: {r0: 0.3, ...}    settings of EngineConfig
        train: {lr: 0.07, ...}    settings of TrainConfig, with the optimizer that they were chosen for
        source: ...               where the entry comes from, in words
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from pydantic import Field, field_validator

from dropopt.config import METHODS, STAGES, Baseline, Config, ConfigError, EngineConfig, RunConfig, TrainConfig
from dropopt.study.define import shipped
from dropopt.study.define.parameter import Choice
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import is_plain
from dropopt.study.search.preferred import PreferringTrial, preferred_values
from dropopt.study.store.keys import PORTFOLIO
from dropopt.study.store.retries import parameters
from dropopt.yamlfile import read

#: What ``--portfolio`` takes to turn portfolios off.
NONE = "none"

#: Version of the layout of the files.
SCHEMA = 1

#: Settings of the engine that have no effect if the rate of the adaptive method is constant.
_OF_ALPHA = ("lambda_loss", "delta", "theta_depth", "theta_epoch")
#: The kinds of plain dropout, by the engine's pattern that drops the same units.
_KINDS = {"element": "dropout", "channel": "dropout2d"}
#: Two numbers of one setting that differ by less than this fraction count as the same.
_CLOSE = 0.01


class Entry(Config):
    """One configuration of a portfolio: the settings that it was chosen for. Other settings are left to the study."""

    engine: dict[str, Any]
    train: dict[str, Any] = Field(default_factory=dict)
    #: Where the entry comes from, in words.
    source: str = ""

    @field_validator("engine")
    @classmethod
    def _engine(cls, given: dict[str, Any]) -> dict[str, Any]:
        EngineConfig.parse(given)
        return given

    @field_validator("train")
    @classmethod
    def _train(cls, given: dict[str, Any]) -> dict[str, Any]:
        TrainConfig.parse(given)
        return given


class Portfolio(Config):
    """The entries of a file."""

    name: str
    entries: tuple[Entry, ...]
    provenance: dict[str, Any] = Field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the name and the entries, which a study keeps for its workers."""
        return self.model_dump(exclude={"provenance"})


def load_portfolio(given: str, beside: Path | None = None) -> Portfolio | None:
    """Load a portfolio.

    Args:
        given: The name of a shipped portfolio, the path of a file, or ``none``.
        beside: A folder that relative paths are tried in after the current one.

    Returns:
        The portfolio; None for ``none``.

    Raises:
        ConfigError: There is no such portfolio, or its file has a mistake.
    """
    if given == NONE:
        return None
    path = shipped.find("portfolios", given, beside)
    items = read(path)
    values = items.plain()
    rows = values.get("entries") if isinstance(values, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"portfolio {path} must hold a mapping with a list of entries that is not empty")
    schema = values.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise ConfigError(f"portfolio {path} has the schema {schema!r}; this version of dropopt reads {SCHEMA}")
    for number, row in enumerate(rows):
        try:
            Entry.parse(row)
        except ConfigError as error:
            line = items.line_of(("entries", number))
            raise ConfigError(f"{path}:{line}: entry {number + 1}: {error}") from None
    try:
        return Portfolio.parse({**values, "name": path.stem})
    except ConfigError as error:
        raise ConfigError(f"portfolio {path}: {error}") from None


def enqueue_portfolio(
    study: optuna.Study, portfolio: Portfolio, space: Space, base: RunConfig, classes: int, n_trials: int
) -> None:
    """Enqueue the entries that ``space`` can express and that ``study`` does not have yet.

    Args:
        study: The study; its anchors and the configurations of its prior are enqueued already.
        portfolio: The portfolio.
        space: The search space of the study.
        base: The configuration that all trials share.
        classes: The number of classes of the data.
        n_trials: The number of trials of the study, with which enqueuing stops.
    """
    trials = study.get_trials(deepcopy=False)
    taken, room = list(_runs(map(parameters, trials), space, base)), n_trials - len(trials)
    for name, chosen in entries_of(portfolio, space, base, classes).items():
        run = space.resolve(chosen, base)
        if room > 0 and not any(_same(run, other) for other in taken):
            study.enqueue_trial(chosen, user_attrs={PORTFOLIO: name})
            taken.append(run)
            room -= 1


def entries_of(portfolio: Portfolio, space: Space, base: RunConfig, classes: int) -> dict[str, dict[str, Choice]]:
    """Return the parameters of each entry that ``space`` can express, by its name: ``portfolio 3`` is the third entry.

    A number outside of its range moves to the nearest end. An entry is left out if the space fixes a setting at another
    value, or does not have the entry's choice. A learning rate that was chosen for another optimizer is replaced by the
    middle of the range.
    """
    found: dict[str, dict[str, Choice]] = {}
    for number, entry in enumerate(portfolio.entries, start=1):
        settings = _of_baseline(entry.engine) if space.engine is Baseline else entry.engine
        if settings is None:
            continue
        stand_in = PreferringTrial(preferred_values(space, base, settings, entry.train), clip=True)
        try:
            run = space.suggest(stand_in, classes, base)
        except ConfigError:  # the settings are not valid together in this space
            continue
        if _expresses(run.engine, settings, space):
            found[f"portfolio {number}"] = stand_in.chosen
    return found


def _of_baseline(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of plain dropout that does what an entry's engine does; ``sites`` only if the entry has it."""
    settings = _plain(EngineConfig.parse(given))
    return settings and {name: value for name, value in settings.items() if name != "sites" or name in given}


def _plain(engine: EngineConfig) -> dict[str, Any] | None:
    """The settings of plain dropout that does the same as ``engine``; None if there is none."""
    for pattern, kind in _KINDS.items():
        if is_plain(pattern, engine.r0, engine):
            kind = kind if engine.r0 else "none"
            return {"kind": kind, "p": engine.r0, "schedule": "constant", "sites": engine.sites}
    return None


def _expresses(engine: EngineConfig | Baseline, settings: Mapping[str, Any], space: Space) -> bool:
    """Whether ``engine``, which ``space`` made from ``settings``, has these settings, except for clipped numbers."""
    ranges = {one.setting for one in space.parameters if one.section == "engine" and not one.choices}
    if isinstance(engine, Baseline):
        if settings["kind"] == "none":
            return engine.kind == "none" or engine.p == 0
        return all(_close(getattr(engine, name), settings[name]) for name in settings if name not in ranges)
    wanted = EngineConfig.parse(settings)
    free = {*ranges, *_without_effect(wanted), *(f"w_{method}" for method in METHODS)}
    return _same_weights(engine, wanted) and all(
        _close(getattr(engine, name), getattr(wanted, name)) for name in settings if name not in free
    )


def _runs(found: Iterable[Mapping[str, Any]], space: Space, base: RunConfig) -> Iterable[RunConfig]:
    """The configurations of trials with these parameters."""
    for values in found:
        try:
            yield space.resolve(values, base)
        except ConfigError:  # parameters that only another program could write
            continue


def _same(first: RunConfig, other: RunConfig) -> bool:
    """Whether two configurations of one study train the same network in the same way."""
    trained = _same_settings(first.train.model_dump(exclude={"seed"}), other.train.model_dump())
    return trained and _same_engine(first.engine, other.engine)


def _same_engine(first: EngineConfig | Baseline, other: EngineConfig | Baseline) -> bool:
    if not isinstance(first, EngineConfig) or not isinstance(other, EngineConfig):
        return _same_settings(first.model_dump(), other.model_dump())
    one, two = _plain(first), _plain(other)
    if one is not None and two is not None:
        return _same_settings(one, two)
    ignored = {f"w_{method}" for method in METHODS} | (_without_effect(first) & _without_effect(other))
    return _same_weights(first, other) and _same_settings(first.model_dump(exclude=ignored), other.model_dump())


def _same_settings(first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(_close(value, other.get(name)) for name, value in first.items())


def _same_weights(first: EngineConfig, other: EngineConfig) -> bool:
    """Whether the methods have the same shares at all times."""
    return all(
        math.isclose(one / sum(first.weights(stage)), two / sum(other.weights(stage)), abs_tol=_CLOSE)
        for stage in range(len(STAGES))
        for one, two in zip(first.weights(stage), other.weights(stage), strict=True)
    )


def _without_effect(engine: EngineConfig) -> set[str]:
    """The settings that have no effect beside the others."""
    return {*(_OF_ALPHA if engine.alpha == 0 else ()), *(("allocation",) if engine.pattern == "own" else ())}


def _close(one: Any, two: Any) -> bool:
    both = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, two)]
    return math.isclose(one, two, rel_tol=_CLOSE, abs_tol=1e-6) if all(both) else bool(one == two)
