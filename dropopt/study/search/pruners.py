"""Pruners by name, with all relevant arguments of Optuna's pruners given explicitly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

#: Number of complete trials before a trial is pruned.
STARTUP_TRIALS = 4

#: Fraction of its epochs during which no trial is pruned, because regularised networks learn slowly at first. On
#: Fashion-MNIST with a one-cycle learning rate, ranks in the first third are even negatively correlated with the
#: final ones, and a warm-up of a tenth pruned the best trials.
WARMUP = 1 / 6


def make_pruner(name: str, epochs: int, *, anchors: int = 0) -> BasePruner:
    """Make the pruner called ``name``. Any name but those below, such as ``none``, gives one that never prunes.

    Args:
        name: ``median``, ``percentile``, ``forecast`` or ``hyperband``.
        epochs: The number of epochs of a trial.
        anchors: The number of trials that are anchors. They are good configurations, so a trial is pruned only once
            :data:`STARTUP_TRIALS` others are complete as well.
    """
    from optuna.pruners import HyperbandPruner, NopPruner

    from dropopt.study.search.forecast import ForecastPruner
    from dropopt.study.search.percentile import QuickPercentilePruner

    warmup, startup = round(epochs * WARMUP), STARTUP_TRIALS + anchors
    if name == "median":
        return QuickPercentilePruner(50.0, startup, warmup)
    if name == "percentile":
        return QuickPercentilePruner(25.0, startup, warmup)
    if name == "forecast":
        return ForecastPruner(n_startup_trials=startup)
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, warmup), max_resource=epochs, reduction_factor=3)
    return NopPruner()
