"""The sources of the user's own code, as a study records them.

A script may be edited between two sessions of a study. The study therefore has a list of sources, each with the number
of the first trial that used it.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState

from dropopt.config import RunConfig
from dropopt.study.store.keys import CODE
from dropopt.trust import sources


def record_code(study: optuna.Study, base: RunConfig) -> str:
    """Store the sources of the functions that ``base`` names, if they are not those stored last.

    Returns:
        A notice if the sources have changed since earlier trials; else an empty string.
    """
    found = {module: source.plain() for module, source in sources(base.names).items()}
    history: list[Any] = list(study.user_attrs.get(CODE) or [])
    before: dict[str, Any] = history[-1]["modules"] if history else {}
    if found == before:
        return ""
    trials = study.get_trials(deepcopy=False)
    # Trials that are enqueued, such as anchors, will use these sources.
    since = next((trial.number for trial in trials if trial.state == TrialState.WAITING), len(trials))
    study.set_user_attr(CODE, [*history, {"since": since, "modules": found}])
    changed = [module for module, source in found.items() if before.get(module, source)["sha256"] != source["sha256"]]
    return f"the source of {', '.join(changed)} has changed since trial {since - 1}" if changed and since else ""


def code_of(study: optuna.Study, number: int | None = None) -> dict[str, Any] | None:
    """Return the sources that trial ``number`` used, or those used last, by module; None if they are not recorded."""
    found = None
    for entry in study.user_attrs.get(CODE) or []:
        if number is None or entry["since"] <= number:
            found = entry["modules"]
    return found or None
