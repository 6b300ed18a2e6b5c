"""A sampler that learns from a limited number of trials, so that its cost does not grow with the study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class RecentSampler(BaseSampler):
    """Shows a sampler the best and the latest trials of a study with more than ``limit`` trials.

    TPE models its 25 best trials and all others, of which the oldest count least. It takes 15 ms of processor time for
    a draw at 500 trials and 250 ms at 10,000.

    Args:
        base: The sampler.
        limit: The number of trials that it sees at most. Up to this number it sees all of them.
        best: How many of them are the best complete trials; the others are the latest trials.
    """

    def __init__(self, base: BaseSampler, limit: int, best: int) -> None:
        self._base_sampler, self._limit, self._best = base, limit, best
        self._part: tuple[list[FrozenTrial], _Part] | None = None
        self._study: tuple[object, int] | None = None  # its storage and its id there
        self._ranked = 0  # all trials of that study with a lower number have ended, and the best of them are known
        self._leaders: list[FrozenTrial] = []

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._base_sampler})"

    def reseed_rng(self) -> None:
        """Reseed the base."""
        self._base_sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the base."""
        self._base_sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The search space of the base."""
        return self._base_sampler.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters that the base draws together."""
        return self._base_sampler.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that the base draws alone."""
        return self._base_sampler.sample_independent(self._view(study), trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Call the base."""
        self._base_sampler.after_trial(study, trial, state, values)

    def _view(self, study: Study) -> Any:
        """``study``, or one with some of its trials."""
        trials = study._get_trials(deepcopy=False, use_cache=True)
        if len(trials) <= self._limit:
            return study
        if self._part is not None and self._part[0] is trials:  # Optuna keeps this list for one trial
            return self._part[1]
        earlier = len(trials) - (self._limit - self._best)
        if (study._storage, study._study_id) != self._study or earlier < self._ranked:
            self._study, self._ranked, self._leaders = (study._storage, study._study_id), 0, []
        while self._ranked < earlier and trials[self._ranked].state.is_finished():
            self._leaders.append(trials[self._ranked])
            self._ranked += 1
        sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
        self._leaders = nsmallest(self._best, self._leaders, key=lambda trial: _rank(trial, sign))
        # Trials that are still running must not be drawn again, however long ago they began.
        part = _Part(study, [*sorted(self._leaders, key=lambda trial: trial.number), *trials[self._ranked :]])
        self._part = (trials, part)
        return part


def _rank(trial: FrozenTrial, sign: int) -> tuple[float, int]:
    """The order of trials, the best first; those without a finite value are the last."""
    value = trial.values[0] if trial.state == TrialState.COMPLETE and trial.values else math.inf
    return sign * value if math.isfinite(value) else math.inf, trial.number


class _Part:
    """A proxy of a study that has some of its trials."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return self._get_trials if name == "get_trials" else getattr(self._study, name)

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]
