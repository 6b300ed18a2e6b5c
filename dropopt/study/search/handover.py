"""A sampler that hands over to a cheaper one when a study has many trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class HandoverSampler(BaseSampler):
    """Samples with ``first`` while at most ``limit`` trials are complete, then with ``then``.

    Args:
        first: The sampler whose cost grows with the number of complete trials.
        then: The sampler that replaces it.
        limit: The number of complete trials up to which ``first`` is used.
        on_handover: Called once, when ``then`` is used for the first time.
    """

    def __init__(
        self, first: BaseSampler, then: BaseSampler, limit: int, on_handover: Callable[[], None] | None = None
    ) -> None:
        self._first, self._then, self._limit = first, then, limit
        self._on_handover = on_handover
        self._chosen: dict[int, BaseSampler] = {}  # by running trial: one sampler draws all its parameters

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._first}, {self._then})"

    def reseed_rng(self) -> None:
        """Reseed both samplers."""
        self._first.reseed_rng()
        self._then.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the sampler of the trial."""
        complete = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
        over = len(complete) > self._limit
        self._chosen[trial._trial_id] = self._then if over else self._first
        if over and self._on_handover is not None:
            self._on_handover()
            self._on_handover = None
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The search space of the chosen sampler."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters that the chosen sampler draws together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that the chosen sampler draws alone."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forget the trial."""
        sampler = self._of(trial)
        self._chosen.pop(trial._trial_id, None)
        sampler.after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        return self._chosen.get(trial._trial_id, self._first)
