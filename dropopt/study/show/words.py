"""Values of a trial as words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropopt.study.store.keys import ACCURACY

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def show_parameters(trial: FrozenTrial) -> str:
    """``r0=0.21 pattern=channel``: a trial's parameters in a line."""
    return " ".join(f"{name}={show_value(value)}" for name, value in trial.params.items())


def show_value(value: Any) -> str:
    """A parameter's value to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_accuracy(trial: FrozenTrial) -> str:
    """A trial's validation accuracy."""
    accuracy = trial.user_attrs.get(ACCURACY)
    return f"{accuracy:.4f}" if isinstance(accuracy, float) else "-"


def show_seconds(seconds: float) -> str:
    """``1:05`` or ``2:03:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
