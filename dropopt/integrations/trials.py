"""What trackers log of a study: the finished trials, with parameters, results and learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropopt.files import name_part
from dropopt.study.store.keys import ACCURACY, ANCHOR, BEST_EPOCH, BEST_LOSS, PORTFOLIO, REASON, SECONDS
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, metric_key, task_of
from dropopt.study.store.url import resolve

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: A tracker: called with the study and a finished trial, as a callback of ``study.optimize`` is.
Tracker = Callable[["optuna.Study", "FrozenTrial"], None]
#: A parameter's value.
Choice = str | int | float | bool


@dataclass(frozen=True)
class Record:
    """A finished trial in plain values."""

    study: str
    number: int
    params: dict[str, Choice]
    #: The objective's value, or its values, and the numbers that dropopt stores with a trial.
    metrics: dict[str, float]
    #: The objective after each epoch, by epoch.
    curve: dict[int, float]
    #: The state and, if there are any, the name of the anchor or of the portfolio's entry and the reason of a failure.
    tags: dict[str, str]
    began: float | None  # seconds since 1970
    ended: float | None

    @property
    def name(self) -> str:
        """The name of the trial's run."""
        return f"trial-{self.number}"

    @property
    def slug(self) -> str:
        """The name of the study with letters, digits, dots and dashes only, for folders and ids.

        A name that had to be changed ends with a hash of the study's name, so that two studies never share a folder.
        """
        return name_part(self.study, r"[^\w.-]+|^\.+", 110)


def record_of(study: optuna.Study, trial: FrozenTrial) -> Record:
    """Return what to log of ``trial``. Values that are not finite are left out."""
    values = trial.values or []
    names = ["value"] if len(values) == 1 else [f"value_{number}" for number in range(len(values))]
    metrics = dict(zip(names, values, strict=True))
    shown = {ACCURACY: metric_key(task_of(study).score)}
    for key in (ACCURACY, BEST_LOSS, BEST_EPOCH, SECONDS):
        if isinstance(number := trial.user_attrs.get(key), int | float):
            metrics[shown.get(key, key)] = number
    tags = {"state": trial.state.name.lower()}
    tags |= {key: str(trial.user_attrs[key]) for key in (ANCHOR, PORTFOLIO, REASON) if key in trial.user_attrs}
    return Record(
        study=study.study_name,
        number=trial.number,
        params={name: _plain(value) for name, value in trial.params.items()},
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        curve={step: value for step, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)},
        tags=tags,
        began=None if trial.datetime_start is None else trial.datetime_start.timestamp(),
        ended=None if trial.datetime_complete is None else trial.datetime_complete.timestamp(),
    )


def log_study(study: optuna.Study | str, tracker: Tracker, *, storage: str | None = None) -> int:
    """Log every finished trial of a study.

    Args:
        study: The study, or its name in a storage.
        tracker: Receives each trial. Those of :mod:`dropopt.integrations` skip trials that they have logged before, so
            that the call may be repeated while the study runs.
        storage: The storage of a study that is given by name: a URL or a file. Default: as for ``dropopt run``.

    Returns:
        The number of finished trials.
    """
    if isinstance(study, str):
        with closing(Opened(resolve(storage), create=False)) as opened:
            return log_study(find_study(opened.storage, study), tracker)
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    for trial in finished:
        tracker(study, trial)
    return len(finished)


def _plain(value: object) -> Choice:
    return value if isinstance(value, str | int | float | bool) else str(value)
