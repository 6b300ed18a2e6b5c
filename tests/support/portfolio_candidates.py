"""The configurations that may enter a portfolio, as settings of the engine, with the losses that searches found.

Searches with the same space and seed begin with the same configurations on all data sets. These are candidates, and
their values are used: none of them was chosen for its value. The best configurations that each search found later are
candidates too; their values are not used, because the best of many trials is too low, so they are trained again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from evidence_tasks import DATA
from optuna.study import Study
from optuna.trial import FixedTrial, FrozenTrial

from dropopt.config import METHODS, Baseline, EngineConfig, RunConfig
from dropopt.study.confirm.candidates import choose_candidates
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of, is_plain
from dropopt.study.store.keys import CONFIG
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, has_result, searches
from dropopt.study.store.url import resolve

#: The number of best configurations of an arm's search that are candidates, where it is not 1.
TOP = {"own": 2, "own_uniform": 2}
#: A configuration that the searches on so many data sets tried was not chosen for its value.
SHARED = 3
#: The settings of the engine that an entry of a portfolio holds, besides the weights.
SETTINGS = ("pattern", "allocation", "r0", "alpha", "lambda_loss")
#: The names of data sets in other studies.
SYNONYMS = {"clothing": "photos"}


@dataclass(frozen=True)
class Candidate:
    """A configuration that may enter the portfolio."""

    name: str
    engine: dict[str, Any]
    train: dict[str, Any]
    #: The data sets whose searches found it as their best; empty if it was not chosen for its value.
    found_on: frozenset[str] = frozenset()
    #: Whether it is an anchor, which every study tries before its portfolio.
    anchor: bool = False
    #: The losses in searches by data set, infinite if the trial was pruned; only if it was not chosen for its value.
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What identifies the settings."""
        return json.dumps([self.engine, self.train], sort_keys=True)

    def run(self, base: RunConfig) -> RunConfig:
        """The configuration of a training on the data and with the network of ``base``."""
        own = {"train": base.train.model_dump() | self.train, "engine": self.engine}
        return RunConfig.parse({**base.model_dump(exclude={"engine"}), **own})


@dataclass(frozen=True)
class Search:
    """A search of one arm on one data set."""

    data: str
    arm: str
    study: Study


def candidates(storages: Sequence[str]) -> list[Candidate]:
    """The candidates of the searches in ``storages``, without duplicates, and the anchors."""
    found = {one.key: one for one in anchors()}
    tried: dict[str, Candidate] = {}
    best: list[Candidate] = []
    for search in _searches(storages):
        for trial in search.study.get_trials(deepcopy=False):
            one = _of_trial(search, trial)
            if one is not None:
                known = tried.setdefault(one.key, one)
                for data, loss in one.losses.items():
                    known.losses[data] = min(loss, known.losses.get(data, math.inf))
        best += _best(search)
    for key, one in tried.items():
        if key in found:
            found[key].losses.update(one.losses)
        elif len(one.losses) >= SHARED and any(map(math.isfinite, one.losses.values())):
            found[key] = one
    for one in best:
        if one.key not in found:
            found[one.key] = one
        elif found[one.key].found_on:
            merged = found[one.key].found_on | one.found_on
            found[one.key] = Candidate(found[one.key].name, one.engine, one.train, merged)
    return list(found.values())


def anchors() -> list[Candidate]:
    """The anchors of the default space."""
    space = Space.load("compact").bound(RunConfig())
    base, found = space.base(RunConfig()), []
    for name, given in anchors_of(space, base, 10).items():
        run = space.suggest(FixedTrial(given), 10, base)
        train = {setting: short(getattr(run.train, setting)) for setting in ("lr", "weight_decay")}
        found.append(Candidate(f"anchor {name}", as_engine(run.engine) or {}, train, anchor=True))
    return found


def _searches(storages: Sequence[str]) -> Iterator[Search]:
    for url in storages:
        with closing(Opened(resolve(url), create=False)) as opened:
            for name in searches(opened.storage):
                data, _, arm = name.partition("-")
                data = SYNONYMS.get(data, data)
                if data in DATA:
                    yield Search(data, arm, find_study(opened.storage, name))


def _of_trial(search: Search, trial: FrozenTrial) -> Candidate | None:
    """A trial of a search; None if the engine cannot do the same or if the trial did not begin."""
    if CONFIG not in trial.user_attrs or not trial.intermediate_values:
        return None
    loss = float(trial.value) if has_result(trial) and trial.value is not None else math.inf
    return _candidate(search, trial.number, RunConfig.parse(trial.user_attrs[CONFIG]), losses={search.data: loss})


def _best(search: Search) -> list[Candidate]:
    chosen = choose_candidates(search.study, TOP.get(search.arm, 1)).all
    made = (
        _candidate(search, one.trial, one.run, found_on=frozenset({search.data})) for one in chosen if not one.anchor
    )
    return [one for one in made if one is not None]


def _candidate(search: Search, number: int, run: RunConfig, **facts: Any) -> Candidate | None:
    engine = as_engine(run.engine)
    if engine is None:
        return None
    train = {name: short(getattr(run.train, name)) for name in ("lr", "weight_decay")}
    where = f", {search.data}" if "found_on" in facts else ""  # others were tried on several data sets
    return Candidate(f"{search.arm}, trial {number}{where}", engine, train, **facts)


def as_engine(engine: EngineConfig | Baseline) -> dict[str, Any] | None:
    """The settings of the engine that an entry holds; None for a baseline that the engine does not contain."""
    if isinstance(engine, EngineConfig):
        for pattern in ("element", "channel"):
            if is_plain(pattern, engine.r0, engine):
                return plain(pattern, engine.r0)
        weights = dict(zip(METHODS, engine.weights(), strict=True))
        total = sum(weights.values())
        given = {name: getattr(engine, name) for name in SETTINGS}
        given = {name: short(value) if isinstance(value, float) else value for name, value in given.items()}
        if engine.pattern == "own":
            given.pop("allocation")
        return given | {f"w_{method}": round(value / total, 3) for method, value in weights.items()}
    patterns = {"none": "element", "dropout": "element", "dropout2d": "channel"}
    if engine.kind not in patterns:
        return None
    return plain(patterns[engine.kind], 0.0 if engine.kind == "none" else engine.p)


def plain(pattern: str, rate: float) -> dict[str, Any]:
    """The settings of plain dropout. The own pattern of the adaptive method is to drop units independently."""
    alone = {f"w_{method}": float(method == "adaptive") for method in METHODS}
    settings = {"r0": short(rate), "alpha": 0.0, "lambda_loss": 0.0, **alone}
    if pattern == "element" or not rate:
        return {"pattern": "own", **settings}
    return {"pattern": pattern, "allocation": "uniform", **settings}


def short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
