"""The trials of a study that a process has read, and has changed since."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

#: The age of trials that have to be loaded again only if some are known to be missing or to have changed.
ANY_AGE = float("inf")


@dataclass
class CachedTrials:
    """The trials of a study, by number, as they were loaded last and changed by this process since.

    The lists are never changed, only replaced: readers share them, because a copy of a long list takes time.

    Attributes:
        trials: The trials.
        unfinished: The numbers of those that are not finished.
        by_states: Those in some states.
        first: The first distribution of each parameter.
        version: The version of the storage when it was read.
        loaded: The time at which it was read.
        expired: Whether trials are missing or have changed, so that they must be read again, whatever their age.
    """

    trials: list[FrozenTrial] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    by_states: dict[frozenset[TrialState], list[FrozenTrial]] = field(default_factory=dict)
    first: dict[str, BaseDistribution] = field(default_factory=dict)
    version: object = None
    loaded: float = 0.0
    expired: bool = True

    def expire(self) -> None:
        """Read the storage again before the trials are next used."""
        self.expired, self.version = True, None

    def put(self, *changed: FrozenTrial) -> None:
        """Add trials, by number, or replace them."""
        trials = self.trials.copy()
        for trial in changed:
            if trial.number > len(trials):  # trials of other workers are missing
                self.expire()
                break
            trials[trial.number : trial.number + 1] = [trial]
            if trial.state.is_finished():
                self.unfinished.discard(trial.number)
            else:
                self.unfinished.add(trial.number)
            for states, found in self.by_states.items():
                at = bisect_left(found, trial.number, key=attrgetter("number"))
                present = at < len(found) and found[at].number == trial.number
                if present or trial.state in states:
                    self.by_states[states] = replaced = found.copy()
                    replaced[at : at + present] = [trial] if trial.state in states else []
        self.trials = trials

    def in_states(self, states: frozenset[TrialState]) -> list[FrozenTrial]:
        """Return the trials in some states, by number."""
        if states not in self.by_states:
            self.by_states[states] = [trial for trial in self.trials if trial.state in states]
        return self.by_states[states]

    def distribution(self, name: str) -> BaseDistribution | None:
        """Return the distribution of a parameter in the first trial that has it."""
        if name not in self.first:
            for trial in self.trials:
                if name in trial.distributions:
                    self.first[name] = trial.distributions[name]
                    break
        return self.first.get(name)
