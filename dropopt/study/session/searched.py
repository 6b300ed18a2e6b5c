"""What a confirmation needs to know of a search: its configuration, where its data are, and the time of a trial."""

from __future__ import annotations

from statistics import median

import optuna

from dropopt.config import ConfigError, RunConfig
from dropopt.known import may_be_moved
from dropopt.study.store.keys import BASE, SECONDS
from dropopt.study.store.queries import has_result, search_of


def base_of(study: optuna.Study) -> RunConfig:
    """Return the configuration that all trials of a search share. Raises ConfigError for any other study."""
    if (search := search_of(study)) is not None:
        raise ConfigError(f"study {study.study_name!r} is itself a confirmation; give --study {search}")
    if BASE not in study.user_attrs:
        raise ConfigError(f"study {study.study_name!r} was not run by dropopt run, so it cannot be confirmed")
    return RunConfig.parse(study.user_attrs[BASE])


def moved(base: RunConfig, data: str) -> RunConfig:
    """Return ``base`` with its data at another place.

    Raises:
        ConfigError: They are not data at a place, or not of the same kind.
    """
    if data != base.data.name and not may_be_moved(base.data.name, data):
        kinds = "a folder (folder:PATH) or a NumPy file (numpy:FILE.npz)"
        raise ConfigError(
            f"--data {data}: the study was run with {base.data.name}; --data says where {kinds} of a study is now"
        )
    return with_data(base, data)


def with_data(run: RunConfig, name: str) -> RunConfig:
    """Return ``run`` with another name of its data."""
    return run.model_copy(update={"data": run.data.model_copy(update={"name": name})})


def seconds_of_a_trial(study: optuna.Study) -> float | None:
    """Return the median time of a complete trial; None if there is none."""
    times = [trial.user_attrs.get(SECONDS) for trial in study.get_trials(deepcopy=False) if has_result(trial)]
    known = [float(time) for time in times if time is not None]
    return median(known) if known else None
