"""Search spaces written for a test, and the configurations of a trial with given parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from dropopt.config import RunConfig
from dropopt.study.define.space import Space


def space_of(folder: Path, text: str) -> Space:
    """The space of a file in ``folder`` that holds ``text``."""
    path = folder / "space.yaml"
    path.write_text(text)
    return Space.load(path)


def suggested(space: Space, base: RunConfig, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, RunConfig]:
    """The configuration of each of the named parameters, as a trial gets it."""
    found = {}
    for name, parameters in chosen.items():
        trial = FixedTrial(dict(parameters))
        found[name] = space.suggest(trial, 10, base)
        assert trial.params == parameters, "every parameter that the space suggests is given, and no other"
    return found
