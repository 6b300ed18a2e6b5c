"""Reading a study: how many trials of each kind, which is best, what it was made with."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig, suggestion
from dropopt.study.objective import ACCURACY, CONFIG, MESSAGE, REASON, SEED, UNCOUNTED
from dropopt.study.space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

# User attributes of a study.
SPACE = "space"
FINGERPRINT = "space_fingerprint"
BASE = "base"
MADE_WITH = "made_with"
DATA = "data_fingerprint"
PRIOR = "prior"

#: How often, and how many seconds apart, one looks whether another process has stamped the study it has made.
STAMP_TRIES = 50
STAMP_PAUSE = 0.1

#: Settings that differ between machines and do not change what a trial means.
_LOCAL = ("data.root", "train.device", "train.seed")


@dataclass(frozen=True)
class Counts:
    """How many trials of a study are in which state."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    interrupted: int = 0
    running: int = 0

    @property
    def counted(self) -> int:
        """Trials that ended by themselves."""
        return self.complete + self.pruned + self.failed

    def __str__(self) -> str:
        words = [f"{value} {name}" for name, value in vars(self).items() if value]
        return ", ".join(words) or "none yet"


def count(trials: Iterable[FrozenTrial]) -> Counts:
    """Count ``trials`` by state; those that were interrupted apart from those that failed."""
    from optuna.trial import TrialState

    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
    found = dict.fromkeys(("complete", "pruned", "failed", "interrupted", "running"), 0)
    for trial in trials:
        if trial.state == TrialState.WAITING:
            continue
        lost = trial.user_attrs.get(REASON) in UNCOUNTED
        found[names.get(trial.state, "interrupted" if lost else "failed")] += 1
    return Counts(**found)


def best(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial with the lowest value; what is not a finite number never wins."""
    from optuna.trial import TrialState

    done = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)
    ]
    return min(done, key=lambda trial: (trial.value, trial.number), default=None)


def last_activity(trials: Iterable[FrozenTrial]) -> datetime | None:
    """When a trial last started or ended."""
    times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time]
    return max(times, default=None)


def show_parameters(trial: FrozenTrial) -> str:
    """``r0=0.21 pattern=channel``: a trial's parameters in a line."""
    return " ".join(f"{name}={show_value(value)}" for name, value in trial.params.items())


def show_value(value: Any) -> str:
    """A parameter's value to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_accuracy(trial: FrozenTrial) -> str:
    """A trial's validation accuracy."""
    accuracy = trial.user_attrs.get(ACCURACY)
    return f"{accuracy:.4f}" if isinstance(accuracy, float) else "-"


def find_study(storage: BaseStorage, name: str | None) -> optuna.Study:
    """The study called ``name``; without a name, the only one there is."""
    import optuna

    names = study_names(storage)
    if name is None:
        if len(names) == 1:
            name = names[0]
        else:
            which = f"which study? give --study: {', '.join(names)}" if names else "it holds no study yet"
            raise ConfigError(f"the storage has {len(names)} studies; {which}")
    elif name not in names:
        raise ConfigError(
            f"no study {name!r} in this storage; " + (suggestion(name, names) if names else "it is empty")
        )
    return optuna.load_study(study_name=name, storage=storage)


def study_names(storage: BaseStorage) -> list[str]:
    """The names of all studies in ``storage``."""
    return sorted(study.study_name for study in storage.get_all_studies())


def create(
    storage: BaseStorage, name: str, space: Space, base: RunConfig, facts: Mapping[str, Any], *, known: bool
) -> tuple[optuna.Study, bool]:
    """The study called ``name``, stamped with the experiment that it is and ``facts``; and whether by this call.

    A study without a trial that was ``known`` before is stamped anew. One that another process has made meanwhile is
    that one's: raises :class:`ConfigError` if it is another experiment.
    """
    import optuna

    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=known)
    except optuna.exceptions.DuplicatedStudyError:
        study = _stamped(optuna.load_study(study_name=name, storage=storage))
        check(study, space, base, begun=True)
        return study, False
    with warnings.catch_warnings():
        # Experimental since Optuna 3.2; without it the dashboard calls the value "Objective 0".
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["validation loss (smoothed)"])
    stamps = {SPACE: space.name, FINGERPRINT: space.fingerprint, **facts, BASE: base.model_dump(mode="json")}
    for key, value in stamps.items():  # BASE last: where it stands, all do
        study.set_user_attr(key, value)
    return study, True


def _stamped(study: optuna.Study) -> optuna.Study:
    """``study`` once the process that has just made it has said what it is."""
    for _ in range(STAMP_TRIES):
        if BASE in study.user_attrs:
            break
        time.sleep(STAMP_PAUSE)
    return study


def check(study: optuna.Study, space: Space, base: RunConfig, *, begun: bool = False) -> None:
    """A :class:`ConfigError` says what makes ``study`` another experiment than this one, if anything does.

    One without a trial can still become any, unless another process has just ``begun`` it.
    """
    difference = _difference(study, space, base, begun=begun)
    if difference:
        raise ConfigError(
            f"study {study.study_name!r} exists and {difference}; give another --study-name, or the same settings"
        )


def _efficacy(study: optuna.Study) -> dict[str, Any] | None:
    """What was learned about the blend, in short; None where none was searched."""
    from dropopt.study.insight import learned

    try:
        found = learned(study, prior=study.user_attrs.get(PRIOR))
    except ConfigError:
        return None
    return {"verdict": found.efficacy.verdict, "preferred": found.preferred}


def _difference(study: optuna.Study, space: Space, base: RunConfig, *, begun: bool) -> str:
    """What makes ``study`` another experiment than this one; empty if it is the same."""
    import optuna

    attributes = study.user_attrs
    minimised = study.directions == [optuna.study.StudyDirection.MINIMIZE]
    if minimised and not study.get_trials(deepcopy=False) and not begun:
        return ""  # it can still become any
    if not minimised or BASE not in attributes:
        return "was not made by dropopt"
    if attributes[FINGERPRINT] != space.fingerprint:
        changed = "has changed since" if attributes[SPACE] == space.name else f"is not {space.name}"
        return f"its search space ({attributes[SPACE]}) {changed}"
    then, now = (_flat(settings) for settings in (attributes[BASE], base.model_dump(mode="json")))
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name) and name not in _LOCAL:
            return f"was made with {name} = {then.get(name)}, not {now.get(name)}"
    return ""


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.name``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and bool(value)
        found |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def choose(study: optuna.Study, number: int | None) -> FrozenTrial:
    """Trial ``number``, or the best one."""
    trials = study.get_trials(deepcopy=False)
    if number is None:
        trial = best(trials)
        if trial is None:
            raise ConfigError(f"study {study.study_name!r} has no completed trial yet ({count(trials)})")
        return trial
    if not 0 <= number < len(trials):
        last = f"0 to {len(trials) - 1}" if trials else "none"
        raise ConfigError(f"study {study.study_name!r} has no trial {number}; there are: {last}")
    if CONFIG not in trials[number].user_attrs:
        raise ConfigError(f"trial {number} never had a configuration: {trials[number].user_attrs.get(MESSAGE)}")
    return trials[number]


def exported(study: optuna.Study, trial: FrozenTrial) -> tuple[RunConfig, dict[str, Any]]:
    """A trial's whole configuration, and where it comes from."""
    provenance: dict[str, Any] = {
        "study": study.study_name,
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "val_accuracy": trial.user_attrs.get(ACCURACY),
        "seed": trial.user_attrs.get(SEED),
        "trials": str(count(study.get_trials(deepcopy=False))),
        "space": study.user_attrs.get(SPACE),
        "space_fingerprint": study.user_attrs.get(FINGERPRINT),
        "data_fingerprint": study.user_attrs.get(DATA),
        "efficacy": _efficacy(study),
        "made_with": study.user_attrs.get(MADE_WITH),
    }
    run = RunConfig.parse(trial.user_attrs[CONFIG])
    return run, {name: value for name, value in provenance.items() if value is not None}
