"""A study at one moment, read once: what its note, its figures, its summary and its report are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dropopt.facts import Facts
from dropopt.study.blend.gather import FINISHED
from dropopt.study.search.anchors import Comparison, compare
from dropopt.study.store.history import History, history_of
from dropopt.study.store.keys import ANCHOR, FACTS, PRIOR
from dropopt.study.store.queries import (
    Counts,
    count,
    has_several_objectives,
    is_maximized,
    leader,
    ranked,
    task_of,
)
from dropopt.study.store.scale import Scale

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from dropopt.study.blend.learned import Learned
    from dropopt.study.effects.effects import Effects


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        study: The study.
        attributes: Its user attributes.
        trials: All its trials.
    """

    study: optuna.Study
    attributes: Mapping[str, Any]
    trials: tuple[FrozenTrial, ...]

    @classmethod
    def of(cls, study: optuna.Study) -> Snapshot:
        """Read ``study``."""
        return cls(study, study.user_attrs, tuple(study.get_trials(deepcopy=False)))

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.study.study_name

    @cached_property
    def counts(self) -> Counts:
        """The number of trials in each state."""
        return count(self.trials)

    @cached_property
    def facts(self) -> Facts | None:
        """The sizes of the data and of the network; None if the study does not say."""
        return Facts.read(self.attributes.get(FACTS))

    @property
    def finished(self) -> set[int]:
        """The numbers of the trials that have ended."""
        return {trial.number for trial in self.trials if trial.state.is_finished()}

    @cached_property
    def several(self) -> bool:
        """Whether the study has several objectives."""
        return has_several_objectives(self.study)

    @cached_property
    def maximize(self) -> bool:
        """Whether higher values are better; False for several objectives."""
        return not self.several and is_maximized(self.study)

    @cached_property
    def leader(self) -> FrozenTrial | None:
        """The best trial; None if there is none."""
        return leader(self.study, self.trials)

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The complete trials, the best first; empty for several objectives."""
        return [] if self.several else ranked(self.trials, maximize=self.maximize)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The best trial compared with the anchors; None if there are none."""
        return None if self.several or self.maximize else compare(self.trials, self.scale)

    @cached_property
    def learned(self) -> Learned | None:
        """What the study learned about its blend; None if it has no blend."""
        from dropopt.study.blend.learned import learned
        from dropopt.study.blend.names import NoBlendError

        with suppress(NoBlendError):
            return learned(self.study, prior=self.attributes.get(PRIOR))
        return None

    @cached_property
    def effects(self) -> Effects | None:
        """What each parameter does, and the answers to the five questions; None if no trial could say."""
        from dropopt.study.effects.effects import study_effects

        return study_effects(self.study) if not self.several and learnable(self.trials) else None

    @cached_property
    def history(self) -> History | None:
        """The epochs of the best trial; None if they were not stored."""
        return None if self.leader is None else history_of(self.leader)

    @cached_property
    def scale(self) -> Scale:
        """How the values of the study are shown."""
        return Scale.of(self.study)

    @property
    def score_way(self) -> str:
        """Which values of the metric are better, in words."""
        return f"{'higher' if task_of(self.study).higher else 'lower'} is better"

    @property
    def metric(self) -> str:
        """What is shown of the study's values: named as in the storage, or the metric."""
        if self.scale.complement:
            return f"validation {self.scale.name} (smoothed)"
        names = self.study.metric_names
        return names[0] if names else "value"

    @property
    def score(self) -> str:
        """The name of the metric, such as ``accuracy``."""
        return task_of(self.study).score

    @property
    def anchors(self) -> dict[int, str]:
        """The names of the anchors, by the number of the trial."""
        return {trial.number: str(trial.user_attrs[ANCHOR]) for trial in self.trials if ANCHOR in trial.user_attrs}


def learnable(trials: Sequence[FrozenTrial]) -> bool:
    """Whether there is anything to analyse: a finished trial with parameters."""
    return any(trial.state in FINISHED and trial.params for trial in trials)
