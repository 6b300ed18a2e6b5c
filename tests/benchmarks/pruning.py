"""Which pruner finds the best trial with the fewest epochs? Replays the learning curves of trials that were stored.

    python -m tests.benchmarks.pruning sqlite:///runs/evidence-fashion.db     one table for each storage

The complete trials of all searches in a storage are drawn in random orders and reported to each pruner, epoch by epoch.
Nothing is trained, so that many orders and pruners can be compared on the same curves. Curves of studies that were
pruned favour the pruner that let them pass. For curves that favour none, run a study with ``--pruner none`` first:

    dropopt run fashion_mnist --pruner none --sampler random --n-trials 40 --storage sqlite:///runs/curves.db
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState
from scipy.stats import spearmanr

from dropopt.study.search.forecast import ForecastPruner
from dropopt.study.search.percentile import QuickPercentilePruner
from dropopt.study.search.pruners import STARTUP_TRIALS, make_pruner
from tests.benchmarks.throughput import print_table

Curves = np.ndarray[Any, Any]

#: Endings of the names of studies that repeat configurations of others.
LEFT_OUT = ("-confirmed", "-tested")

#: Each order is replayed until its trials have used as many epochs as this number of complete trials.
BUDGET = 12


def curves(storage: str) -> Curves:
    """Return (n, epochs + 1) what the complete trials reported at each epoch, and their final values.

    The studies of ``dropopt confirm``, which repeat configurations, are left out.
    """
    complete = [
        trial
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE and not name.endswith(LEFT_OUT)
    ]
    longest = max((len(t.intermediate_values) for t in complete), default=0)
    rows = [
        [*(value for _, value in sorted(t.intermediate_values.items())), t.value]
        for t in complete
        if len(t.intermediate_values) == longest and t.value is not None and math.isfinite(t.value)
    ]
    return np.array(rows)


def pruners(epochs: int) -> dict[str, Callable[[], BasePruner]]:
    """Return the pruners by name, with median pruning after several warm-ups."""
    made: dict[str, Callable[[], BasePruner]] = {"none": lambda: make_pruner("none", epochs)}
    for share in (1 / 6, 1 / 3, 1 / 2, 2 / 3):
        warmup = round(epochs * share)
        made[f"median after {share:.0%}"] = partial(QuickPercentilePruner, 50.0, STARTUP_TRIALS, warmup)
    for chance in (0.2, 0.1, 0.05):
        made[f"forecast {chance}"] = partial(ForecastPruner, chance=chance)
    return made


def replay(values: Curves, order: np.ndarray[Any, Any], pruner: BasePruner) -> tuple[float, float]:
    """Report trials in ``order`` until the budget is spent; returns the best final value and the epochs of a trial."""
    epochs = values.shape[1] - 1
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    left, best, begun = BUDGET * epochs, math.inf, 0
    for row in values[order]:
        if left <= 0:
            break
        trial, begun = study.ask(), begun + 1
        for epoch, value in enumerate(row[:-1], 1):
            trial.report(value, epoch)
            left -= 1
            if epoch < epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, row[-1])
            best = min(best, row[-1])
    return best, (BUDGET * epochs - left) / begun


def main() -> None:
    """Replay the trials of the storages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storages", nargs="+", help="URLs of the storages")
    parser.add_argument("--orders", type=int, default=40, help="random orders of the trials")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for storage in options.storages:
        values = curves(storage)
        if len(values) <= BUDGET:
            parser.error(f"{storage} has {len(values)} complete trials, and more than {BUDGET} are needed")
        report(storage, values, options.orders)


def report(name: str, values: Curves, count: int) -> None:
    """Print the rank correlations of the epochs and a row for each pruner."""
    epochs = values.shape[1] - 1
    shares = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)
    ranks = [spearmanr(values[:, round(epochs * share) - 1], values[:, -1]).statistic for share in shares]
    told = ", ".join(f"{rank:.2f} after {share:.0%}" for rank, share in zip(ranks, shares, strict=True))
    print(f"\n{name}: {len(values)} trials of {epochs} epochs, lowest value {values[:, -1].min():.4f}")
    print(f"rank correlation with the final value: {told} of the epochs")
    print(f"best value found with the epochs of {BUDGET} complete trials; means over {count} orders, standard errors\n")
    random = np.random.default_rng(0)
    orders = [random.permutation(len(values)) for _ in range(count)]
    rows = []
    for pruner, make in pruners(epochs).items():
        found = [replay(values, order, make()) for order in orders]
        best = [value for value, _ in found]
        error = statistics.stdev(best) / math.sqrt(count)
        rows.append(
            [pruner, f"{statistics.mean(best):.4f} ({error:.4f})", f"{statistics.mean(e for _, e in found):.1f}"]
        )
    print_table(["pruner", "best value", "epochs a trial"], rows)


if __name__ == "__main__":
    main()
