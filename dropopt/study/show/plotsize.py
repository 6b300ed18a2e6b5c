"""The size of the dashboard's plots, estimated from the trials before a plot is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: The largest plot, in bytes of JSON, that the dashboard computes.
PLOT_LIMIT = 20_000_000

# Measured with Optuna 5.0 and Plotly 7.1. Ten continuous parameters and 200 trials give 47 MB for the contour plot,
# 12 MB for the rank plot and less than 0.2 MB for each other plot; 1,000 trials give about 1 GB, 61 MB and 0.8 MB.
#: Bytes of a contour plot for each cell of each panel's grid.
CELL = 13
#: Bytes of a rank plot for each point of each panel, and bytes that each parameter adds to its hover text besides the
#: name.
POINT, HOVER = 250, 30
#: Bytes of any other plot for each parameter of each trial, and the number of parameters that the rest of a trial is
#: worth.
VALUE, TRIAL = 100, 2


def plot_size(storage: BaseStorage, study_id: int, plot: str) -> int:
    """Estimate the size of a plot in bytes; raises KeyError for a study that does not exist."""
    from optuna.trial import TrialState

    states = None if plot == "timeline" else (TrialState.COMPLETE,)
    trials = storage.get_all_trials(study_id, deepcopy=False, states=states)
    distinct = _distinct_values(trials)
    if plot == "contour":
        return CELL * _cells([count + 2 for count in distinct.values()])  # the grid adds a margin on both sides
    if plot == "rank":
        panels = 1 if len(distinct) == 2 else len(distinct) ** 2
        return panels * len(trials) * (POINT + sum(len(name) + HOVER for name in distinct))
    return VALUE * len(trials) * (len(distinct) + TRIAL)


def _distinct_values(trials: Iterable[FrozenTrial]) -> dict[str, int]:
    """The number of distinct values of each parameter."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    return {name: len(found) for name, found in values.items()}


def _cells(sizes: Sequence[int]) -> int:
    """The number of cells in all panels: one panel for two parameters, else one for each ordered pair."""
    ordered = sum(sizes) ** 2 - sum(size**2 for size in sizes)
    return ordered // 2 if len(sizes) == 2 else ordered
