"""What people read of the values of a study: the values themselves, or the metric of which 1 - metric is minimised."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from dropopt.config import TaskConfig
from dropopt.numbers import fixed
from dropopt.study.store.keys import BASE, CLASSES
from dropopt.study.store.queries import has_several_objectives, is_maximized, task_of


@dataclass(frozen=True)
class Scale:
    """How the values of a study are shown.

    A study minimises. If its task is judged by a metric of which more is better, it minimises ``1 - metric``. That is
    what the storage holds; tables, sentences and charts show the metric.

    Attributes:
        name: What is shown, in a word: ``loss``, ``error`` (1 - accuracy), or the name of a metric.
        maximise: Whether a higher value is better, as it is shown.
        complement: Whether a stored value is 1 - what is shown.

    Example:
        >>> Scale("dice", maximise=True, complement=True).text(0.25), Scale().text(0.25)
        ('0.7500', '0.2500')
    """

    name: str = "loss"
    maximise: bool = False
    complement: bool = False

    @classmethod
    def of_task(cls, task: TaskConfig, by: str | None = None) -> Scale:
        """The scale of values that are judged ``by`` loss, or by ``accuracy``, which stands for any metric."""
        by = by or task.judged_by
        if by != "loss" and task.metric != "accuracy" and task.higher:
            return cls(task.score, maximise=True, complement=True)
        return cls(task.word(by))

    @classmethod
    def of(cls, study: optuna.Study) -> Scale:
        """The scale of a study; one of another program is called as its value is named there, if it is."""
        if {BASE, CLASSES} & study.user_attrs.keys():
            return cls.of_task(task_of(study))
        names = study.metric_names
        if has_several_objectives(study):
            return cls(", ".join(names or ["values"]))
        return cls(names[0] if names else "value", maximise=is_maximized(study))

    @property
    def stored(self) -> str:
        """What the stored values are, in a word."""
        return f"1 - {self.name}" if self.complement else self.name

    def heading(self, score: str) -> str:
        """The heading of a column of values beside one of the metric ``score``, from which it must differ."""
        return f"{self.name} (smoothed)" if self.name == score else self.name

    @property
    def way(self) -> str:
        """Which values are better, in words."""
        return f"{'higher' if self.maximise else 'lower'} is better"

    def read(self, value: float) -> float:
        """What is shown of a stored value."""
        return 1 - value if self.complement else value

    def text(self, value: float | None) -> str:
        """A stored value as text; ``-`` if there is none."""
        return "-" if value is None else fixed(self.read(value))[0]

    def change(self, difference: float) -> float:
        """What is shown of a difference of two stored values."""
        return -difference if self.complement else difference

    def interval(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of values as they are shown, the lower one first."""
        return (self.read(high), self.read(low)) if self.complement else (low, high)

    def changes(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of differences as they are shown, the lower one first."""
        return (-high, -low) if self.complement else (low, high)
