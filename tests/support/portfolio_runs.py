"""The trainings from which a portfolio is chosen: each candidate on each task, kept in a storage."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import optuna
from evidence_tasks import definition
from optuna.trial import FrozenTrial, TrialState, create_trial
from portfolio_candidates import Candidate
from portfolio_choice import mean_losses
from rich.console import Console

from dropopt.seeds import derived_seed
from dropopt.study.define.space import Space
from dropopt.training import DivergedError, train_run

#: A data set and a network.
Task = tuple[str, str]

#: Tasks, each a data set and a network, with the number of seeds.
TASKS: dict[Task, int] = {
    ("digits", "small"): 3,
    ("mnist", "small"): 2,
    ("fashion", "small"): 2,
    ("photos", "small"): 2,
    ("digits", "resnet9"): 1,
}
#: Images of a task, except of the digits: fewer than in the searches, so that all tasks together take an hour.
IMAGES = 1000


class Runs:
    """The trainings.

    Args:
        url: The storage in which they are kept.
        console: Where the progress is printed.
    """

    def __init__(self, url: str, console: Console) -> None:
        self._url, self._console = url, console

    def studies(self) -> dict[str, optuna.Study]:
        """The study of each task."""
        return {
            f"{data}-{network}": optuna.create_study(
                study_name=f"{data}-{network}", storage=self._url, direction="minimize", load_if_exists=True
            )
            for data, network in TASKS
        }

    def train(self, everyone: Sequence[Candidate], files: Mapping[str, str | None], tasks: Sequence[Task]) -> None:
        """Train what is missing: the candidates before the anchors, and all tasks with one seed before the next seed.

        Args:
            everyone: The candidates.
            files: The paths of data sets, for :func:`evidence_tasks.definition`.
            tasks: Some of :data:`TASKS`.
        """
        studies = self.studies()
        left = [
            (task, seed, one)
            for seed in range(max(TASKS.values()))
            for task in tasks
            for one in everyone
            if seed < TASKS[task] and (one.key, seed) not in known(studies["-".join(task)])
        ]
        left.sort(key=lambda item: (item[1], not item[2].data))
        began = time.monotonic()
        for number, (task, seed, one) in enumerate(left):
            trial, value = trained(task, seed, one, files)
            studies["-".join(task)].add_trial(trial)
            minutes = (time.monotonic() - began) / 60
            what = f"{'-'.join(task)}, {one.name}, seed {seed}: {value:.4f}"
            self._console.print(f"{number + 1} of {len(left)}, {minutes:.0f} min: {what}", highlight=False)

    def losses(self, everyone: Sequence[Candidate]) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
        """The mean loss of each candidate by task, and the number of seeds by task.

        Those seeds count with which all candidates were trained. An anchor is left out of a task unless it was trained
        with all of these seeds.
        """
        needed = {one.key for one in everyone if one.data}
        runs, counts = {}, {}
        for task, study in self.studies().items():
            found = known(study)
            seeds = {seed for _, seed in found if all((which, seed) in found for which in needed)}
            complete = [one for one in everyone if all((one.key, seed) in found for seed in seeds)]
            runs |= {(task, one.name, seed): found[one.key, seed] for one in complete for seed in seeds}
            counts[task] = len(seeds)
        return mean_losses(runs), {task: count for task, count in counts.items() if count}


def trained(task: Task, seed: int, one: Candidate, files: Mapping[str, str | None]) -> tuple[FrozenTrial, float]:
    """Train a candidate. Returns the trial to store and the loss, which is infinite if it diverged."""
    run = one.run(definition(task[0], network=task[1], images=IMAGES, **files).base(Space.load("compact")))
    seeded = run.train.model_copy(update={"seed": derived_seed(0, "portfolio", seed, bits=31)})
    start = time.process_time()
    try:
        value = train_run(run.model_copy(update={"train": seeded}))[0].objective
    except DivergedError:
        value = math.inf
    facts = {"key": one.key, "seed": seed, "name": one.name, "cpu_seconds": time.process_time() - start}
    if not math.isfinite(value):
        return create_trial(state=TrialState.FAIL, user_attrs=facts), math.inf
    return create_trial(state=TrialState.COMPLETE, value=value, user_attrs=facts), value


def known(study: optuna.Study) -> dict[tuple[str, int], float]:
    """The losses of a task so far, by settings and seed."""
    return {
        (trial.user_attrs["key"], trial.user_attrs["seed"]): math.inf if trial.value is None else trial.value
        for trial in study.get_trials(deepcopy=False)
    }
