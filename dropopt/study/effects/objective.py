"""What a study optimises, and which way is better, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dropopt.config import TaskConfig
from dropopt.study.store.keys import BASE

#: Names that take an article in a sentence; others are names of functions.
_WORDS = ("loss", "error", "objective value")


@dataclass(frozen=True)
class Objective:
    """What a study optimises.

    Attributes:
        name: Its name, such as ``loss``, ``error`` or ``1 - dice``.
        maximise: Whether a higher value is better.
        metric: The metric of which the study minimises ``1 - metric``, the gap between the metric and 1; empty if it
            optimises ``name`` itself.

    Example:
        >>> Objective("loss").change("12%", better=False, ratio=True)
        'the loss is 12% higher'
        >>> dice = Objective("1 - dice", metric="dice")
        >>> dice.change("0.3", better=False, ratio=False), dice.change("12%", better=False, ratio=True)
        ('dice is 0.3 lower', 'the gap between dice and 1 is 12% larger')
    """

    name: str = "objective value"
    maximise: bool = False
    metric: str = ""

    @property
    def called(self) -> str:
        """The name in a sentence: ``the loss``."""
        if self.metric:
            return f"the gap between {self.metric} and 1"
        return f"the {self.name}" if self.name in _WORDS else self.name

    def in_units(self) -> Objective:
        """What differences are those of: ``1 - metric`` falls by as much as the metric rises."""
        return Objective(self.metric, maximise=True) if self.metric else self

    def change(self, amount: str, *, better: bool, ratio: bool) -> str:
        """A sentence about a change by ``amount``, a share of the value if ``ratio``, else in its units."""
        if ratio and self.maximise:  # all values are below 0
            return f"{self.called} is {amount} {'nearer to' if better else 'further below'} 0"
        about = self if ratio else self.in_units()
        return f"{about.called} is {amount} {about.way(more=about.maximise == better)}"

    def way(self, *, more: bool) -> str:
        """The word for a higher or a lower value."""
        if self.metric:
            return "larger" if more else "smaller"
        return "higher" if more else "lower"

    def cost(self, *, ratio: bool) -> str:
        """What a cost is: ``how much higher the loss is than with the best value, as a share of the loss``."""
        about = self if ratio else self.in_units()
        way = about.way(more=not about.maximise)
        unit = f"as a share of {about.called}" if ratio else "in its units"
        return f"how much {way} {about.called} is than with the best value, {unit}"


def objective_of(study: Any) -> Objective:
    """What ``study`` optimises, for a study with one objective; those of other programs may have named it."""
    maximise = study.direction.name == "MAXIMIZE"
    base = study.user_attrs.get(BASE)
    if base and not maximise:
        found = TaskConfig.parse(base.get("task") or {})
        name = found.word(found.judged_by)
        return Objective(name, metric=found.score if name.startswith("1 - ") else "")
    names = study.metric_names
    return Objective(names[0] if names else "objective value", maximise)
