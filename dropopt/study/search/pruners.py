"""Pruners by name, with all relevant arguments of Optuna's pruners given explicitly."""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner

from dropopt.study.search.forecast import ForecastPruner
from dropopt.study.search.percentile import QuickPercentilePruner

#: Number of complete trials before a trial is pruned.
STARTUP_TRIALS = 4

#: Fraction of its epochs during which no trial is pruned, because regularised networks learn slowly at first. In
#: searches of Fashion-MNIST and of photographs with a one-cycle learning rate, the rank correlation of the loss with
#: the final loss was -0.4 and 0.0 after a sixth of the epochs, 0.4 after a third and 0.7 after a half. With a warm-up
#: of a sixth, pruning was worse than no pruning for the same number of epochs (see ``tests/benchmarks/README.md``).
WARMUP = 1 / 2

#: The same for forecasts, which need less, since they know how well the current loss predicts the final one.
FORECAST_WARMUP = 1 / 3

#: Fraction of its epochs after which Hyperband compares trials for the first time, in its most aggressive bracket.
FIRST_RUNG = 1 / 6


def make_pruner(name: str, epochs: int, *, anchors: int = 0) -> BasePruner:
    """Make the pruner called ``name``. Any name but those below, such as ``none``, gives one that never prunes.

    Args:
        name: ``median``, ``percentile``, ``forecast`` or ``hyperband``.
        epochs: The number of epochs of a trial.
        anchors: The number of trials that are anchors. They are good configurations, so a trial is pruned only once
            :data:`STARTUP_TRIALS` others are complete as well.
    """
    warmup, startup = round(epochs * WARMUP), STARTUP_TRIALS + anchors
    if name == "median":
        return QuickPercentilePruner(50.0, startup, warmup)
    if name == "percentile":
        return QuickPercentilePruner(25.0, startup, warmup)
    if name == "forecast":
        return ForecastPruner(n_startup_trials=startup, n_warmup_steps=round(epochs * FORECAST_WARMUP))
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, round(epochs * FIRST_RUNG)), max_resource=epochs, reduction_factor=3)
    return NopPruner()
