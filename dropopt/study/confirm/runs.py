"""The runs of a confirmation: a study of their own, with one trial for each configuration and seed.

A run has two parameters, ``configuration`` (the number of the trial in the search) and ``repeat`` (which seed, from 0).
All runs are enqueued before the first one starts, so that interrupted runs, retries and workers are handled as those of
any study. The seeds depend on ``repeat`` only: they are common to all configurations and all studies, and no search
uses them.

A seed is also that of the validation split, where the data have none of their own. On a split that is the same for all
seeds, an advantage that a configuration has on these images only would remain in the mean, and intervals would be too
narrow. The test split is always that of the search.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError
from dropopt.seeds import derived_seed
from dropopt.study.store import retries
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import CONFIRMS, GIVEN_BACK, ID, INTERRUPTED, OF, REASON, TESTS
from dropopt.study.store.ledger import SEED_BITS
from dropopt.study.store.queries import study_names
from dropopt.study.store.retries import parameters, root

#: The parameters of a run.
CONFIGURATION, REPEAT = "configuration", "repeat"
#: The largest value of either.
LARGEST = 10**9

#: What is added to the name of the search, by the key of the attribute that names the search.
SUFFIXES = {CONFIRMS: "confirmed", TESTS: "tested"}

#: A run that failed for one of these reasons would fail again.
LASTING = ("DivergedError", "NotFinite")


@dataclass(frozen=True, order=True)
class Run:
    """One training: a configuration with a seed."""

    repeat: int
    configuration: int

    @property
    def seed(self) -> int:
        """The training seed."""
        return derived_seed(0, "confirm", self.repeat, bits=SEED_BITS)


def run_of(trial: FrozenTrial) -> Run | None:
    """Return the run of a trial, in any state; None if it is not a run."""
    found = parameters(trial)
    if CONFIGURATION not in found or REPEAT not in found:
        return None
    return Run(int(found[REPEAT]), int(found[CONFIGURATION]))


def find_runs(search: optuna.Study, key: str) -> optuna.Study | None:
    """Return the study that confirms (or tests, by ``key``) the study ``search``; None if there is none yet.

    Raises:
        ConfigError: Another study has its name, or it belongs to an earlier study of the name of ``search``.
    """
    name = f"{search.study_name}-{SUFFIXES[key]}"
    if name not in study_names(search._storage):
        return None
    study = optuna.load_study(study_name=name, storage=search._storage)
    if _is_unborn(study, key):
        return None
    if study.user_attrs.get(key) != search.study_name:
        raise ConfigError(f"study {name!r} exists and was not made by dropopt confirm; rename one of the studies")
    if study.user_attrs.get(OF, known := search.user_attrs.get(ID)) != known:
        raise ConfigError(
            f"study {name!r} belongs to an earlier study called {search.study_name!r}; delete it with Optuna "
            f"(optuna delete-study --study-name {shlex.quote(name)} --storage STORAGE), or give this study another name"
        )
    return study


def _is_unborn(study: optuna.Study, key: str) -> bool:
    """Whether a process has created ``study``, and has died before it could say whose runs it has."""
    minimized = study.directions == [StudyDirection.MINIMIZE]
    return minimized and key not in study.user_attrs and not study.get_trials(deepcopy=False)


def make_runs(search: optuna.Study, key: str, facts: Mapping[str, Any], metric: str) -> optuna.Study:
    """Return the study that confirms (or tests, by ``key``) the study ``search``; it is created if there is none."""
    found = find_runs(search, key)
    if found is None:
        name = f"{search.study_name}-{SUFFIXES[key]}"
        found = optuna.create_study(study_name=name, storage=search._storage, direction="minimize", load_if_exists=True)
        name_metric(found, metric)
        own = {OF: search.user_attrs[ID]} if ID in search.user_attrs else {}
        for fact, value in {**facts, **own, key: search.study_name}.items():  # a study that has the key has all
            found.set_user_attr(fact, value)
    found.sampler = optuna.samplers.RandomSampler(seed=0)  # never used: all parameters are enqueued
    found.pruner = optuna.pruners.NopPruner()
    return found


def enqueue(study: optuna.Study, runs: Iterable[Run], *, again: bool = False) -> None:
    """Enqueue those ``runs`` that ``study`` does not have.

    A run that failed is enqueued again, unless its loss was not finite: that would happen again. With ``again``, all
    are enqueued.
    """
    ended = (TrialState.FAIL, TrialState.PRUNED)
    there = {
        run_of(trial)
        for trial in study.get_trials(deepcopy=False)
        if trial.state not in ended or trial.user_attrs.get(REASON) in LASTING
    }
    for run in sorted(runs):
        if again or run not in there:
            study.enqueue_trial({CONFIGURATION: run.configuration, REPEAT: run.repeat})


def is_run_elsewhere(trial: FrozenTrial, trials: Sequence[FrozenTrial], *, again: bool = False) -> bool:
    """Whether a trial with a lower number has the run of ``trial``: two confirmations have enqueued it at one time.

    Args:
        trial: A trial that has just started.
        trials: All trials.
        again: Whether completed runs are run again.
    """
    busy = {TrialState.RUNNING, TrialState.WAITING} | (set() if again else {TrialState.COMPLETE})
    return any(
        other.number < trial.number and other.state in busy and run_of(other) == run_of(trial) for other in trials
    )


def unfinished(study: optuna.Study) -> set[Run]:
    """Return the runs that wait, run, or are to run again."""
    ahead = retries.unfinished(study.get_trials(deepcopy=False))
    return {run for trial in ahead if (run := run_of(trial)) is not None}


def completed(study: optuna.Study) -> dict[Run, FrozenTrial]:
    """Return the completed runs, each with its latest trial."""
    found: dict[Run, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if (run := run_of(trial)) is not None:
            found[run] = trial
    return found


def failed(study: optuna.Study, seeds: int | None = None) -> dict[Run, str]:
    """Return the runs that failed and neither completed nor are to run again, each with the reason.

    Args:
        study: The study of the runs.
        seeds: The number of seeds that count: an earlier confirmation may have had more. None: all.
    """
    return {run: str(trial.user_attrs.get(REASON)) for run, trial in failed_trials(study, seeds).items()}


def failed_trials(study: optuna.Study, seeds: int | None = None) -> dict[Run, FrozenTrial]:
    """Return the runs that failed, as :func:`failed` does, each with its latest trial."""
    done, found = completed(study), {}
    trials = study.get_trials(deepcopy=False)
    open_runs = unfinished(study)
    for trial in trials:
        run = run_of(trial)
        reason = trial.user_attrs.get(REASON)
        if run is None or run in done or run in open_runs or (seeds is not None and run.repeat >= seeds):
            continue
        if trial.state == TrialState.FAIL and reason not in (INTERRUPTED, GIVEN_BACK):
            found[run] = trial
    return found


def checkpoint_of(study: optuna.Study, run: Run) -> tuple[str, int] | None:
    """Return the name of the study and the number that name the checkpoint of a completed run."""
    trial = completed(study).get(run)
    return None if trial is None else (study.study_name, root(trial))
