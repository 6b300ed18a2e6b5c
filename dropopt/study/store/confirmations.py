"""What the study of a confirmation says: which configurations take part, and when the test split was read for which."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from pydantic import StrictInt, TypeAdapter

from dropopt.study.store.keys import ENTRANTS, READINGS


@dataclass(frozen=True)
class Entrant:
    """A configuration that takes part in a confirmation."""

    #: The number of its trial in the search.
    trial: StrictInt
    #: How it is called: ``trial 12`` or the name of an anchor.
    name: str
    anchor: bool


@dataclass(frozen=True)
class SplitReading:
    """A reading of the test split: the networks of one configuration."""

    #: The number of the configuration's trial in the search.
    configuration: StrictInt
    #: The number of its networks, one for each seed.
    seeds: StrictInt
    #: When the split was read.
    at: str


_ENTRANTS = TypeAdapter(list[Entrant])
_READINGS = TypeAdapter(list[SplitReading])


def entrants_of(runs: optuna.Study) -> list[Entrant]:
    """Return the configurations that take part in a confirmation; none if its study does not say."""
    return _ENTRANTS.validate_python(runs.user_attrs.get(ENTRANTS, []))


def readings_of(tests: optuna.Study) -> list[SplitReading]:
    """Return the readings of the test split, the first one first."""
    return _READINGS.validate_python(tests.user_attrs.get(READINGS, []))
