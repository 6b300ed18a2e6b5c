"""Reading a storage: its studies, the number of trials in each state, and the best trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError, TaskConfig
from dropopt.explain import suggestion
from dropopt.numbers import quantity
from dropopt.study.store.keys import ACCURACY, BASE, BEST_LOSS, CLASSES, CONFIRMS, REASON, TESTS, UNCOUNTED
from dropopt.study.store.lease import WorkerIdentity, certainly_dead
from dropopt.study.store.retries import without_replacement

#: A loss above this multiple of the loss of a random guess means that training has diverged.
FAR_ABOVE = 3.0


@dataclass(frozen=True)
class Counts:
    """The number of a study's trials in each state."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    interrupted: int = 0
    running: int = 0

    @property
    def counted(self) -> int:
        """The number of trials that ended and were not interrupted."""
        return self.complete + self.pruned + self.failed

    def __str__(self) -> str:
        words = [f"{value} {name}" for name, value in vars(self).items() if value]
        return ", ".join(words) or "none yet"


def count(trials: Iterable[FrozenTrial]) -> Counts:
    """Count ``trials`` by state. Interrupted and abandoned trials are counted apart from failed ones."""
    return Counts(**Counter(name for trial in trials if (name := count_as(trial))))


def count_as(trial: FrozenTrial) -> str:
    """Return the attribute of :class:`Counts` that counts ``trial``; an empty string if none does."""
    if trial.state == TrialState.FAIL:
        return "interrupted" if trial.user_attrs.get(REASON) in UNCOUNTED else "failed"
    return "" if trial.state == TrialState.WAITING else trial.state.name.lower()


def waiting(trials: Sequence[FrozenTrial], *, alone: bool) -> int:
    """Return how many ``trials`` wait for a worker: their own has died or stopped, and they are to run again.

    Trials of workers on other machines are left out while they run: only the grace period shows whether these live.

    Args:
        trials: All trials of a study.
        alone: Whether no process writes to the storage.
    """
    reader = WorkerIdentity(exclusive=alone)
    running = (trial for trial in trials if trial.state == TrialState.RUNNING)
    return len(without_replacement(trials)) + sum(alone or certainly_dead(trial, reader) for trial in running)


def best(trials: Iterable[FrozenTrial], *, maximize: bool = False) -> FrozenTrial | None:
    """Return the complete trial with the lowest finite value, or the highest; None if there is none."""
    return next(iter(ranked(trials, maximize=maximize)), None)


def ranked(trials: Iterable[FrozenTrial], *, maximize: bool = False) -> list[FrozenTrial]:
    """Return the complete trials with finite values, the best first.

    dropopt stores no other values, but another program may.
    """
    return sorted(filter(has_result, trials), key=partial(rank, maximize=maximize))


def rank(trial: FrozenTrial, *, maximize: bool = False) -> tuple[float, int]:
    """Return what :func:`ranked` sorts by."""
    return (-1 if maximize else 1) * (trial.value or 0.0), trial.number


def has_result(trial: FrozenTrial) -> bool:
    """Whether a trial is complete and its value is finite."""
    return trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)


def diverged(trial: FrozenTrial, study: optuna.Study) -> bool:
    """Whether the loss of a complete ``trial`` is far above that of a random guess, ln(classes).

    The loss of an overconfident network may be somewhat above it. False if the number of classes is not known, or if
    ``study`` minimises anything but the cross-entropy: the value of a guess is then not known.
    """
    classes, task = study.user_attrs.get(CLASSES), task_of(study)
    if not classes or trial.value is None or (task.loss, task.judged_by) != ("cross_entropy", "loss"):
        return False
    return trial.value > FAR_ABOVE * math.log(classes)


def leader(study: optuna.Study, trials: Iterable[FrozenTrial] | None = None) -> FrozenTrial | None:
    """Return the best trial of ``study``, in its own direction.

    Args:
        study: A study of dropopt or of another program.
        trials: Its trials. Default: they are read.

    Returns:
        The trial; None if no trial is complete, if the best one has diverged, or if the study has several objectives.
    """
    if has_several_objectives(study):
        return None
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    found = best(trials, maximize=is_maximized(study))
    if found is None or (not is_maximized(study) and diverged(found, study)):
        return None
    return found


def has_several_objectives(study: optuna.Study) -> bool:
    """Whether a study has more than one objective; dropopt creates no such study."""
    return len(study.directions) > 1


def is_maximized(study: optuna.Study) -> bool:
    """Whether the best trial of a study with one objective has the highest value."""
    return study.direction == optuna.study.StudyDirection.MAXIMIZE


def optimised(study: optuna.Study) -> str:
    """What counts in a study: ``loss``, or ``accuracy`` for its metric; ``loss`` if it is older than the choice."""
    return task_of(study).judged_by


def task_of(study: optuna.Study) -> TaskConfig:
    """The task of a study; classification, judged by the loss, if the study does not say.

    Raises:
        ConfigError: This version does not know the task.
    """
    task = (study.user_attrs.get(BASE) or {}).get("task")
    try:
        return TaskConfig.parse(task) if task else TaskConfig()
    except ConfigError as error:
        raise ConfigError(
            f"study {study.study_name!r} has a task that this version of dropopt does not know: {error}"
        ) from None


def judged(trial: FrozenTrial, by: str, study: optuna.Study) -> float:
    """The value of a complete trial, lower is better, if it is judged ``by`` loss or accuracy.

    It is the trial's value if ``study`` optimised that. Otherwise it is the loss or 1 - accuracy of the best epoch.
    """
    if by == optimised(study):
        return float(trial.value or 0.0)
    known = trial.user_attrs
    return task_of(study).cost(float(known.get(BEST_LOSS, math.inf)), float(known.get(ACCURACY, 0.0)), by)


def no_result(study: optuna.Study) -> str:
    """What is said where a study without a completed trial can do nothing."""
    counts = count(study.get_trials(deepcopy=False))
    found = "completed trial with a finite value" if counts.complete else "completed trial"
    return f"study {study.study_name!r} has no {found} yet ({counts})"


def metric_key(score: str) -> str:
    """The name of a trial's metric where people read it: ``val_accuracy``, ``val_dice``; not that of its loss."""
    return f"val_{metric_word(score)}"


def metric_word(score: str) -> str:
    """The name of a metric among other values: ``accuracy``, ``dice``; ``metric`` if that is the name of its loss."""
    return "metric" if score == "loss" else score


def last_activity(trials: Iterable[FrozenTrial]) -> datetime | None:
    """Return the time at which a trial last started or ended; None without trials."""
    times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time]
    return max(times, default=None)


def find_study(storage: BaseStorage, name: str | None) -> optuna.Study:
    """Return the study called ``name``, or the only study if ``name`` is None; raises :class:`ConfigError`."""
    names = study_names(storage)
    if name is None:
        names = searches(storage)
        if len(names) == 1:
            name = names[0]
        else:
            which = f"give --study with one of: {', '.join(names)}" if names else "run a study first"
            raise ConfigError(f"the storage has {quantity(len(names), 'study')}; {which}")
    elif name not in names:
        raise ConfigError(
            f"no study {name!r} in this storage; " + (suggestion(name, names) if names else "it is empty")
        )
    return optuna.load_study(study_name=name, storage=storage)


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of all studies in ``storage``, sorted."""
    return sorted(study.study_name for study in storage.get_all_studies())


def searches(storage: BaseStorage) -> list[str]:
    """Return the names of the studies that are searches, sorted, without their confirmations."""
    return sorted(
        study.study_name for study in storage.get_all_studies() if not {CONFIRMS, TESTS} & study.user_attrs.keys()
    )


def search_of(study: optuna.Study) -> str | None:
    """Return the search that ``study`` confirms or tests; None if it is none of the two."""
    return study.user_attrs.get(CONFIRMS) or study.user_attrs.get(TESTS)


def choose(study: optuna.Study, number: int | None) -> FrozenTrial:
    """Return trial ``number``, or the best trial if ``number`` is None; raises :class:`ConfigError`."""
    if number is not None:
        trial = numbered(study, number)
    else:
        if has_several_objectives(study):
            raise ConfigError(f"study {study.study_name!r} has several objectives, so no best trial; give --trial")
        found = best(study.get_trials(deepcopy=False), maximize=is_maximized(study))
        if found is None:
            raise ConfigError(no_result(study))
        trial = found
    if trial.state == TrialState.COMPLETE and not has_several_objectives(study) and not has_result(trial):
        raise ConfigError(
            f"trial {trial.number} has the value {trial.value}, which is not finite; give another --trial"
        )
    return trial


def numbered(study: optuna.Study, number: int) -> FrozenTrial:
    """Return trial ``number``; raises :class:`ConfigError` if there is none."""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.number == number:
            return trial
    last = f"0 to {trials[-1].number}" if trials else "none"
    raise ConfigError(f"study {study.study_name!r} has no trial {number}; there are: {last}")
