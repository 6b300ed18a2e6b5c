"""Make the shipped portfolio: configurations that together do well on several data sets and networks.

    python -m tests.benchmarks.portfolio --searches runs/evidence-*.db --mnist FILE.npz --photos FOLDER

Candidates are the best configurations of searches that ``tests.benchmarks.evidence`` has run. Plain dropout is written
as settings of the engine, which contains it. Each candidate and each anchor is trained on each task; then those are
chosen greedily that together have the lowest losses. The last table gives the score on each data set of a portfolio
that was made without it. The runs are kept in ``runs/portfolio.db``, and the same command continues after an
interruption. It takes about an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState, create_trial
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import DATA, definition
from portfolio_choice import mean_losses

from dropopt.config import METHODS, Baseline, EngineConfig, RunConfig
from dropopt.seeds import derived_seed
from dropopt.study.confirm.candidates import choose_candidates
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, searches
from dropopt.study.store.url import resolve
from dropopt.training import DivergedError, train_run

#: The number of configurations of a portfolio.
SIZE = 8
#: Tasks, each a data set and a network, with the number of seeds.
TASKS = {
    ("digits", "small"): 3,
    ("mnist", "small"): 2,
    ("fashion", "small"): 2,
    ("photos", "small"): 2,
    ("digits", "resnet9"): 1,
}
#: Images of a task, except of the digits: fewer than in the searches, so that all tasks together take an hour.
IMAGES = 1000
#: The number of configurations of an arm's search that are candidates, where it is not 1.
TOP = {"own": 2, "own_uniform": 2}
#: The settings of the engine that an entry of a portfolio holds, besides the weights.
SETTINGS = ("pattern", "allocation", "r0", "alpha", "lambda_loss")
#: The names of data sets in other studies.
SYNONYMS = {"clothing": "photos"}

console = Console(width=160)


@dataclass(frozen=True)
class Candidate:
    """A configuration that may enter the portfolio."""

    name: str
    #: The data sets whose searches found it; empty for an anchor, which is always tried.
    data: frozenset[str]
    engine: dict[str, Any]
    train: dict[str, Any]

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


class Runs:
    """The trainings, kept in a storage."""

    def __init__(self, url: str) -> None:
        self._url = url

    def studies(self) -> dict[str, optuna.Study]:
        """The study of each task."""
        return {
            f"{data}-{network}": optuna.create_study(
                study_name=f"{data}-{network}", storage=self._url, direction="minimize", load_if_exists=True
            )
            for data, network in TASKS
        }

    def train(self, everyone: list[Candidate], files: dict[str, str | None], tasks: list[tuple[str, str]]) -> None:
        """Train what is missing."""
        studies = self.studies()
        left = [
            (task, seed, one)
            for seed in range(max(TASKS.values()))  # after the first seed of all tasks, a choice is possible
            for task in tasks
            for one in everyone
            if seed < TASKS[task] and (key(one), seed) not in known(studies["-".join(task)])
        ]
        left.sort(key=lambda one: (one[1], not one[2].data))  # candidates before anchors
        began = time.monotonic()
        for number, (task, seed, one) in enumerate(left):
            base = definition(task[0], network=task[1], images=IMAGES, **files).base(Space.load("compact"))
            run = one.run(base)
            run = run.model_copy(
                update={"train": run.train.model_copy(update={"seed": derived_seed(0, "portfolio", seed, bits=31)})}
            )
            start = time.process_time()
            try:
                value = train_run(run)[0].objective
            except DivergedError:
                value = math.inf
            facts = {"key": key(one), "seed": seed, "name": one.name, "cpu_seconds": time.process_time() - start}
            state = TrialState.COMPLETE if math.isfinite(value) else TrialState.FAIL
            studies["-".join(task)].add_trial(
                create_trial(state=state, value=value if math.isfinite(value) else None, user_attrs=facts)
            )
            minutes = (time.monotonic() - began) / 60
            console.print(
                f"{number + 1} of {len(left)}, {minutes:.0f} min: {'-'.join(task)}, {one.name}, seed {seed}: "
                f"{value:.4f}",
                highlight=False,
            )

    def losses(self, everyone: list[Candidate]) -> dict[str, dict[str, float]]:
        """The mean loss of each candidate by task, over those seeds with which all candidates were trained."""
        names = {key(one): one.name for one in everyone}
        runs = {}
        for task, study in self.studies().items():
            found = {(which, seed): value for (which, seed), value in known(study).items() if which in names}
            seeds = {seed for _, seed in found if all((which, seed) in found for which in names)}
            runs |= {(task, names[which], seed): value for (which, seed), value in found.items() if seed in seeds}
        return mean_losses(runs)


def key(one: Candidate) -> str:
    """What identifies the settings of a candidate."""
    return json.dumps([one.engine, one.train], sort_keys=True)


def known(study: optuna.Study) -> dict[tuple[str, int], float]:
    """The losses of a task so far, by settings and seed."""
    return {
        (trial.user_attrs["key"], trial.user_attrs["seed"]): math.inf if trial.value is None else trial.value
        for trial in study.get_trials(deepcopy=False)
    }


def main() -> None:
    """Train what is missing, choose and write the portfolio, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="+", required=True, help="storages of searches, named DATA-ARM")
    parser.add_argument("--mnist", help="a file with the arrays x, y, x_test and y_test of MNIST")
    parser.add_argument("--photos", help="a folder of images")
    parser.add_argument("--storage", default="sqlite:///runs/portfolio.db")
    parser.add_argument("--tasks", nargs="+", default=["-".join(task) for task in TASKS])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    files = {"mnist": options.mnist, "photos": options.photos}
    everyone = candidates(options.searches)
    runs = Runs(options.storage)
    runs.train(everyone, files, [task for task in TASKS if "-".join(task) in options.tasks])


if __name__ == "__main__":
    main()
