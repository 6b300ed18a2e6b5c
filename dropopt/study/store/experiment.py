"""The identity of a study: stored when the study is created, checked when it is resumed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from dropopt.config import ConfigError, RunConfig
from dropopt.known import may_be_moved
from dropopt.study.define.space import Space
from dropopt.study.store.keys import BASE, DATA, FINGERPRINT, ID, SITES, SPACE

#: How many times, and at what interval in seconds, to check whether another process has stored the attributes of a
#: study that it has just created.
IDENTITY_TRIES = 50
IDENTITY_PAUSE = 0.1

#: Settings that may differ between machines and do not change the meaning of a trial.
_LOCAL = ("data.root", "train.device", "train.seed")


def create(
    storage: BaseStorage, name: str, space: Space, base: RunConfig, facts: Mapping[str, Any], *, known: bool
) -> tuple[optuna.Study, bool]:
    """Create a study and store its identity in its attributes.

    Args:
        storage: The storage.
        name: The name of the study.
        space: The search space.
        base: The configuration that all trials share.
        facts: Further attributes of the study, by key.
        known: Whether a study of this name exists, without trials; its attributes are then replaced.

    Returns:
        The study, and whether this call has created it. If another process has created it at the same time, that study
        is returned and its attributes stay as they are.

    Raises:
        ConfigError: The study that another process has created is a different experiment.
    """
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=known)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        if _has_identity(study):
            check(study, space, base, begun=True)
            return study, False
    name_metric(study, f"{base.task.value} (smoothed)")
    identity = {SPACE: space.name, FINGERPRINT: space.fingerprint, **facts, BASE: base.model_dump(mode="json")}
    for key, value in identity.items():  # BASE is last: a study that has it has all of them
        study.set_user_attr(key, value)
    return study, True


def name_of_files(study: optuna.Study) -> str:
    """Return the name of a study in the names of its files, which differs from those of all other storages."""
    own = study.user_attrs.get(ID)
    return study.study_name if own is None else f"{study.study_name} {own}"


def name_metric(study: optuna.Study, name: str) -> None:
    """Name the value of a study. Without a name the dashboard calls it "Objective 0"."""
    with warnings.catch_warnings():
        # Metric names are experimental since Optuna 3.2.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([name])


def space_of(study: optuna.Study, space: Space) -> Space:
    """Return ``space`` with the choices of ``sites`` that ``study`` began with.

    Optuna requires the choices of a parameter to be the same in all trials of a study. A study without stored choices
    uses those of the file.
    """
    return space.with_sites(study.user_attrs[SITES]) if SITES in study.user_attrs else space


def _has_identity(study: optuna.Study) -> bool:
    """Whether the process that has just created ``study`` stores its attributes; False if it has died before."""
    for _ in range(IDENTITY_TRIES):
        if BASE in study.user_attrs or study.get_trials(deepcopy=False):
            return True
        time.sleep(IDENTITY_PAUSE)
    return False


def check(study: optuna.Study, space: Space, base: RunConfig, *, begun: bool = False) -> None:
    """Check that an existing study is the same experiment as this one.

    A study without a trial can become any experiment, unless another process has just ``begun`` it.

    Raises:
        ConfigError: It is a different experiment; the message names the first difference.
    """
    difference = _difference(study, space, base, begun=begun)
    if difference:
        raise ConfigError(
            f"study {study.study_name!r} exists and {difference}; give another --study-name, or the same settings"
        )


def _difference(study: optuna.Study, space: Space, base: RunConfig, *, begun: bool) -> str:
    """Return the first difference between ``study`` and this experiment; an empty string if there is none."""
    attributes = study.user_attrs
    minimized = study.directions == [optuna.study.StudyDirection.MINIMIZE]
    if minimized and not study.get_trials(deepcopy=False) and not begun:
        return ""
    if not minimized or not {BASE, FINGERPRINT, SPACE} <= attributes.keys():
        return "was not created by dropopt"
    if attributes[FINGERPRINT] != space.fingerprint:
        changed = "has changed since" if attributes[SPACE] == space.name else f"is not {space.name}"
        return f"its search space ({attributes[SPACE]}) {changed}"
    then, now = (_flat(settings) for settings in (with_defaults(attributes[BASE]), base.model_dump(mode="json")))
    for name in sorted(then.keys() | now.keys()):
        if name == "data.name" and may_be_moved(str(then.get(name)), str(now.get(name))):
            continue  # the hashes of the data decide, once they are loaded
        if then.get(name) != now.get(name) and name not in _LOCAL:
            if name == "task.objective":
                one, other = ("loss" if known[name] == "loss" else base.task.score for known in (then, now))
                return f"optimises the {one}, not the {other} (--optimise)"
            return f"was created with {name} = {then.get(name)}, not {now.get(name)}"
    return ""


def data_difference(study: optuna.Study, fingerprint: Mapping[str, str], name: str) -> str:
    """Say how loaded data differ from those of a study; return an empty string if they do not.

    Args:
        study: The study.
        fingerprint: The hash of each split of the loaded data.
        name: Their name, the setting ``data.name``.
    """
    if DATA not in study.user_attrs:
        return f"the storage has no hashes of the data of study {study.study_name!r}, so they may be others"
    known = study.user_attrs[DATA]
    if known == fingerprint:
        return ""
    splits = ", ".join(split for split in fingerprint if known.get(split) != fingerprint[split])
    began = (study.user_attrs.get(BASE) or {}).get("data", {}).get("name", name)
    if began == name:
        return f"the data of study {study.study_name!r} have changed since it began (in: {splits})"
    return f"{name} does not hold the data of study {study.study_name!r}, which began with {began} (other: {splits})"


def with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored configuration with the defaults of settings that are newer than it."""
    try:
        return RunConfig.parse(stored).model_dump(mode="json")
    except ConfigError:  # it has settings that this version does not know
        return stored


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: the keys become ``section.name``, of which an empty section has none."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
