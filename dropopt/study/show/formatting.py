"""Values of a trial as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.numbers import fixed, short
from dropopt.study.store.keys import ACCURACY

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from dropopt.study.search.anchors import Comparison, Row
    from dropopt.study.store.scale import Scale


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """The parameters of a trial in one line: ``r0=0.21 pattern=channel``."""
    return " ".join(f"{name}={format_value(value)}" for name, value in parameters.items())


def format_value(value: Any) -> str:
    """A parameter's value; numbers have three significant digits, see :func:`dropopt.numbers.short`."""
    return short(value) if isinstance(value, float) else str(value)


def format_accuracy(trial: FrozenTrial) -> str:
    """A trial's validation accuracy, or ``-`` if it has none."""
    return format_score(trial.user_attrs.get(ACCURACY))


def format_score(score: object) -> str:
    """An accuracy or another metric, or ``-`` if there is none."""
    return fixed(score)[0] if isinstance(score, float) else "-"


def format_seconds(seconds: float) -> str:
    """A duration: ``1:05`` or ``2:03:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_duration(seconds: float) -> str:
    """A duration in one unit: ``3.5 s``, ``12 min`` or ``2.1 h``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def capitalised(text: str) -> str:
    """``text`` with a capital letter first; the rest, such as a name of the user's, stays as it is."""
    return text[:1].upper() + text[1:]


def format_percent(share: float) -> str:
    """A share as a percentage: ``10.2%``."""
    return f"{100 * share:.3g}%"


def anchor_rows(comparison: Comparison, scale: Scale) -> list[tuple[str, str, str, str, str]]:
    """A row for each anchor: its name, trial, value and metric, and the difference of the best trial."""
    return [
        (
            row.name,
            str(row.trial),
            scale.text(row.loss),
            format_score(row.accuracy),
            _difference(row, comparison, scale),
        )
        for row in comparison.rows
    ]


def _difference(row: Row, comparison: Comparison, scale: Scale) -> str:
    """How far the best trial's value is above an anchor's, as a share of it; or that they are the same trial.

    A difference of metrics is in their units.
    """
    if row.trial == comparison.leader:
        return "is the best trial"
    if scale.complement:
        return fixed(scale.change(row.gap), sign=True)[0]
    return f"{row.difference:+.1%}" if row.relative else fixed(row.difference, sign=True)[0]
