"""The configurations that may enter a portfolio: the best of searches, as settings of the engine, and the anchors."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from evidence_tasks import DATA
from optuna.trial import FixedTrial

from dropopt.config import METHODS, Baseline, EngineConfig, RunConfig
from dropopt.study.confirm.candidates import choose_candidates
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, searches
from dropopt.study.store.url import resolve

#: The number of configurations of an arm's search that are candidates, where it is not 1.
TOP = {"own": 2, "own_uniform": 2}
#: The settings of the engine that an entry of a portfolio holds, besides the weights.
SETTINGS = ("pattern", "allocation", "r0", "alpha", "lambda_loss")
#: The names of data sets in other studies.
SYNONYMS = {"clothing": "photos"}


@dataclass(frozen=True)
class Candidate:
    """A configuration that may enter the portfolio."""

    name: str
    #: The data sets whose searches found it; empty for an anchor, which is always tried.
    data: frozenset[str]
    engine: dict[str, Any]
    train: dict[str, Any]

    @property
    def key(self) -> str:
        """What identifies the settings."""
        return json.dumps([self.engine, self.train], sort_keys=True)

    def run(self, base: RunConfig) -> RunConfig:
        """The configuration of a training on the data and with the network of ``base``."""
        return RunConfig.parse(
            {
                **base.model_dump(exclude={"engine"}),
                "train": base.train.model_dump() | self.train,
                "engine": self.engine,
            }
        )


def candidates(storages: list[str]) -> list[Candidate]:
    """The best configuration by posterior mean of each search, without duplicates, and the anchors."""
    found: dict[str, Candidate] = {one.name: one for one in anchors()}
    for url in storages:
        with closing(Opened(resolve(url), create=False)) as opened:
            for study_name in searches(opened.storage):
                data, _, arm = study_name.partition("-")
                data = SYNONYMS.get(data, data)
                if data not in DATA:
                    continue
                study = find_study(opened.storage, study_name)
                for one in choose_candidates(study, TOP.get(arm, 1)).all:
                    engine = as_engine(one.run.engine)
                    if engine is not None and not one.anchor:
                        train = {name: short(getattr(one.run.train, name)) for name in ("lr", "weight_decay")}
                        name = f"{data}, {arm}, trial {one.trial}"
                        add(found, Candidate(name, frozenset({data}), engine, train))
    return list(found.values())


def add(found: dict[str, Candidate], one: Candidate) -> None:
    """Add a candidate; one with the same settings is merged with it."""
    for name, other in found.items():
        if (other.engine, other.train) == (one.engine, one.train):
            if other.data:
                found[name] = Candidate(name, other.data | one.data, one.engine, one.train)
            return
    found.setdefault(one.name, one)


def anchors() -> list[Candidate]:
    """The anchors of the default space, which every study trains before its portfolio."""
    space = Space.load("compact")
    base = space.base(RunConfig())
    bound = space.bound(base)
    runs = {name: bound.suggest(FixedTrial(given), 10, base) for name, given in anchors_of(bound, base, 10).items()}
    return [
        Candidate(
            f"anchor {name}",
            frozenset(),
            run.engine.model_dump(),
            {"lr": run.train.lr, "weight_decay": run.train.weight_decay},
        )
        for name, run in runs.items()
    ]


def as_engine(engine: EngineConfig | Baseline) -> dict[str, Any] | None:
    """The settings of the engine that an entry holds; None for a baseline that the engine does not contain."""
    if isinstance(engine, EngineConfig):
        weights = dict(zip(METHODS, engine.weights(), strict=True))
        total = sum(weights.values())
        given = {name: getattr(engine, name) for name in SETTINGS}
        given = {name: short(value) if isinstance(value, float) else value for name, value in given.items()}
        if engine.pattern == "own":
            given.pop("allocation")
        return given | {f"w_{method}": round(value / total, 3) for method, value in weights.items()}
    patterns = {"none": "own", "dropout": "own", "dropout2d": "channel"}
    if engine.kind not in patterns:
        return None
    alone = {f"w_{method}": float(method == "adaptive") for method in METHODS}
    rate = 0.0 if engine.kind == "none" else short(engine.p)
    plain = {"pattern": patterns[engine.kind], "r0": rate, "alpha": 0.0, "lambda_loss": 0.0, **alone}
    return plain if plain["pattern"] == "own" else {"allocation": "uniform", **plain}


def short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
