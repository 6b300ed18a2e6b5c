"""The export of a trial: its whole configuration, and where it comes from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import ConfigError
from dropopt.export import kind_of, load
from dropopt.pythonfile import MARK, mark_of
from dropopt.study.after.configuration import Configuration, configuration_of
from dropopt.study.blend.learned import learned
from dropopt.study.blend.names import NoBlendError
from dropopt.study.store.code import code_of
from dropopt.study.store.keys import ACCURACY, COMPLEXITY, DATA, FINGERPRINT, MADE_WITH, PRIOR, SEED, SPACE
from dropopt.study.store.queries import count, metric_key, task_of


def _efficacy(study: optuna.Study) -> dict[str, Any] | None:
    """The verdict about the blend and the preferred blend; None if the study has no blend."""
    try:
        found = learned(study, prior=study.user_attrs.get(PRIOR))
    except NoBlendError:
        return None
    return {"verdict": found.efficacy.verdict, "preferred": found.preferred}


def check_same_study(path: Path, format: str | None, study: str) -> None:
    """Check that ``path`` does not exist, or is an earlier export of the same study.

    Raises:
        ConfigError: The file exists and is not an export of the same study.
    """
    if not path.is_file():
        return
    if kind_of(path, format) == "python":
        with path.open("rb") as file:
            line = file.readline()
        same, what = line.startswith(mark_of(study).encode()), "is of another study"
        if not line.startswith(MARK.encode()):
            what = "was not written by dropopt export"
    else:
        try:
            origin = load(path, format).provenance
        except ConfigError:
            origin = {}
        same = origin.get("study") == study
        what = f"is of study {origin['study']!r}" if "study" in origin else "was not written by dropopt export"
    if not same:
        raise ConfigError(f"{path} exists and {what}; give another file with -o, or --force to replace it")


def exported(study: optuna.Study, trial: FrozenTrial, storage_hint: str) -> tuple[Configuration, dict[str, Any]]:
    """The configuration of ``trial`` and its provenance, for :func:`dropopt.export.save`.

    Args:
        study: The study.
        trial: The trial.
        storage_hint: The option ``--storage`` with which the study was found, with a leading space; may be empty.
    """
    configuration = configuration_of(study, trial)
    made_with = study.user_attrs.get(MADE_WITH)
    name = shlex.quote(study.study_name)
    provenance: dict[str, Any] = {
        "study": study.study_name,
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if len(study.directions) == 1 else list(trial.values or []),
        metric_key(task_of(study).score): trial.user_attrs.get(ACCURACY),
        "seed": trial.user_attrs.get(SEED),
        "trials": str(count(study.get_trials(deepcopy=False))),
        "space": study.user_attrs.get(SPACE),
        "space_fingerprint": study.user_attrs.get(FINGERPRINT),
        "data_fingerprint": study.user_attrs.get(DATA),
        "complexity": study.user_attrs.get(COMPLEXITY),
        "code": code_of(study, trial.number),
        "efficacy": _efficacy(study),
        "study_command": made_with.get("command") if isinstance(made_with, Mapping) else None,
        "train_command": f"dropopt train --study {name} --trial {trial.number}{storage_hint}",
        "parameters": None if configuration.stored else dict(trial.params),
        "made_with": made_with,
    }
    return configuration, {name: value for name, value in provenance.items() if value is not None}
