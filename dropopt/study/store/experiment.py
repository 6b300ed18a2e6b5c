"""Which experiment a study is: stamped when it is created, and checked when it is resumed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.keys import BASE, FINGERPRINT, SPACE

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage


#: How often, and how many seconds apart, one looks whether another process has stamped the study it has made.
STAMP_TRIES = 50

STAMP_PAUSE = 0.1

#: Settings that differ between machines and do not change what a trial means.
_LOCAL = ("data.root", "train.device", "train.seed")


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
