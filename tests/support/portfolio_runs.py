"""The trainings from which a portfolio is chosen: each candidate on each task, kept in a storage."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import optuna
from evidence_tasks import definition
from optuna.trial import FrozenTrial, TrialState, create_trial
from portfolio_candidates import Candidate
from rich.console import Console

from dropopt.seeds import derived_seed
from dropopt.study.define.space import Space
from dropopt.training import DivergedError, train_run

#: A data set and a network.
Task = tuple[str, str]

#: Tasks, each with the number of seeds. The searches were run with the small network.
TASKS: dict[Task, int] = {
    ("digits", "small"): 3,
    ("mnist", "small"): 2,
    ("fashion", "small"): 1,
    ("photos", "small"): 1,
    ("cifar10", "small"): 1,
    ("digits", "resnet9"): 1,
}
SEARCHED = "small"


class Runs:
    """The trainings.

    Args:
        url: The storage in which they are kept.
        console: Where the progress is printed.
    """

    def __init__(self, url: str, console: Console) -> None:
        self._url, self._console = url, console

    def studies(self) -> dict[Task, optuna.Study]:
        """The study of each task."""
        return {
            task: optuna.create_study(
                study_name="-".join(task), storage=self._url, direction="minimize", load_if_exists=True
            )
            for task in TASKS
        }

    def train(self, everyone: Sequence[Candidate], files: Mapping[str, str], tasks: Sequence[Task]) -> None:
        """Train what is missing, and all tasks with one seed before the next seed.

        A candidate whose search trained it on a task needs one seed less, and the anchors come last.

        Args:
            everyone: The candidates.
            files: The paths of data sets, for :func:`evidence_tasks.definition`.
            tasks: Some of :data:`TASKS`.
        """
        studies = self.studies()
        done = {(task, key, seed) for task in tasks for key, seed in known(studies[task])}
        left = [
            (task, seed, one)
            for seed in range(max(TASKS.values()))
            for task in tasks
            for one in everyone
            if seed < TASKS[task] - searched(one, task) and (task, one.key, seed) not in done
        ]
        left.sort(key=lambda item: (item[1], item[2].anchor, bool(item[2].found_on)))
        began = time.monotonic()
        for number, (task, seed, one) in enumerate(left):
            trial, value = trained(task, seed, one, files)
            studies[task].add_trial(trial)
            minutes = (time.monotonic() - began) / 60
            what = f"{'-'.join(task)}, {one.name}, seed {seed}: {value:.4f}"
            self._console.print(f"{number + 1} of {len(left)}, {minutes:.0f} min: {what}", highlight=False)

    def losses(self, everyone: Sequence[Candidate]) -> dict[str, dict[str, float]]:
        """The mean loss of each candidate over its trainings, by task."""
        found: dict[str, dict[str, float]] = {}
        for task, study in self.studies().items():
            runs = known(study)
            for one in everyone:
                values = [value for (key, _), value in runs.items() if key == one.key]
                values += [one.losses[task[0]]] if searched(one, task) else []
                if values:
                    found.setdefault("-".join(task), {})[one.name] = sum(values) / len(values)
        return found


def searched(one: Candidate, task: Task) -> int:
    """How many times a search trained the candidate on the task: 0 or 1."""
    return int(task[1] == SEARCHED and task[0] in one.losses)


def trained(task: Task, seed: int, one: Candidate, files: Mapping[str, str]) -> tuple[FrozenTrial, float]:
    """Train a candidate. Returns the trial to store and the loss, which is infinite if it diverged."""
    run = one.run(definition(task[0], files, network=task[1]).base(Space.load("compact")))
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
