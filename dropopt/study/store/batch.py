"""A batch: everything that is written about one trial at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState


@dataclass
class Batch:
    """What is to be written about one trial.

    Attributes:
        params: The internal value and the distribution of each parameter.
        user_attrs: User attributes.
        system_attrs: System attributes.
        reports: The value of each step.
        state: The state in which the trial ends; None if it goes on.
        values: The values of a trial that ends.
    """

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    state: TrialState | None = None
    values: list[float] | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return self.state is not None or bool(self.params or self.user_attrs or self.system_attrs or self.reports)
