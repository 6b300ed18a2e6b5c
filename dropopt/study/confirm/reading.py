"""Which networks are evaluated on the test split: those of the winner, once."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime

import optuna

from dropopt.study.confirm.results import Confirmed
from dropopt.study.confirm.runs import Run, completed, failed, unfinished
from dropopt.study.store.confirmations import SplitReading, readings_of
from dropopt.study.store.keys import READINGS


@dataclass(frozen=True)
class Reading:
    """A reading of the test split, before or after it."""

    #: All readings until now. This one is the last of them.
    readings: tuple[SplitReading, ...]
    #: The runs that are left.
    left: tuple[Run, ...]
    #: Whether it begins now. Otherwise it was begun before, and may have ended.
    begins: bool
    #: Whether networks that were evaluated before are evaluated again.
    again: bool

    def record(self, tests: optuna.Study) -> None:
        """Store that the split is read, unless an earlier process has done so."""
        if self.begins:
            tests.set_user_attr(READINGS, [vars(one) for one in self.readings])

    def is_of(self, winner: Confirmed) -> bool:
        """Whether the split is read for ``winner``."""
        this = self.readings[-1]
        return this.configuration == winner.trial and this.seeds == winner.validation.seeds


def reading(tests: optuna.Study, winner: Confirmed, known: Container[int], *, again: bool) -> Reading:
    """Return the reading that is in progress, the last one, or a new one if there is none.

    Args:
        tests: The study of the readings.
        winner: The configuration to read the split for.
        known: The configurations that take part; a reading of another one is ignored.
        again: Whether a new reading begins although there is one. One that was interrupted goes on instead.
    """
    readings = [one for one in readings_of(tests) if one.configuration in known]
    pending, done = unfinished(tests), completed(tests).keys()
    begins = not readings or (again and not pending)
    if begins:
        at = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
        readings.append(SplitReading(winner.trial, winner.validation.seeds, at))
    last, afresh = readings[-1], begins and len(readings) > 1
    ended = set() if afresh else (done | failed(tests).keys()) - pending
    wanted = (Run(repeat, last.configuration) for repeat in range(last.seeds))
    return Reading(
        readings=tuple(readings),
        left=tuple(run for run in wanted if run not in ended),
        begins=begins,
        again=afresh or not pending.isdisjoint(done),
    )
