"""Benchmark of the effects: do the 90% intervals contain the truth, on objectives whose effects are known?

    python -m tests.benchmarks.effects --quick        # a minute
    python -m tests.benchmarks.effects --jobs 2

Each study has a random objective of its own, whose true Sobol indices and costs are computed from the objective itself.
The trials come from TPE or at random, with noise. In the rows "tpe, pruned", a third of the trials is stopped early.
Coverage is the share of true values inside their 90% intervals. A value counts as inside within 0.01 of an end, because
the true values are computed by simulation and a parameter that is inert has an index of exactly 0.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import scipy
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from effects_problems import PROBLEMS, problem, study_of, true_averages, true_costs, true_indices

from dropopt.study.effects.effects import study_effects
from dropopt.study.effects.evaluator import EffectsEvaluator

#: Distance from an interval at which a true value still counts as inside.
SLACK = 0.01
#: How the trials are chosen: the sampler, and the fraction that is stopped early.
WAYS = {"random": ("random", 0.0), "tpe": ("tpe", 0.0), "tpe, pruned": ("tpe", 0.35)}
#: A true total index below which a parameter is inert.
INERT = 0.005

#: What the table of the coverage has a column for.
HEADINGS = ("total", "alone", "cost", "on average", "claims of inert")
#: For each quantity, the true values inside their intervals and all of them.
Counts = dict[str, tuple[int, int]]


def one(kind: str, way: str, trials: int, seed: int) -> tuple[Counts, float, float]:
    """Coverage in one study, the mean width of the intervals of total indices, and seconds of processor time."""
    task = problem(kind, seed)
    sampler, pruned = WAYS[way]
    study = study_of(task, sampler, trials, seed, pruned=pruned)
    start = time.process_time()
    effects = study_effects(study)
    seconds = time.process_time() - start
    first, total = true_indices(task)
    names = [factor.name for factor in task.factors]
    found: dict[str, list[bool]] = {name: [] for name in HEADINGS}
    widths = []
    for effect in effects.factors:
        index = names.index(effect.name)
        for name, truth, estimate in (
            ("total", total[index], effect.importance.total),
            ("alone", first[index], effect.importance.first),
        ):
            found[name].append(estimate.low - SLACK <= truth <= estimate.high + SLACK)
        widths.append(effect.importance.total.high - effect.importance.total.low)
        if total[index] < INERT:
            found["claims of inert"].append(effect.importance.total.low > SLACK)
        if effects.ratio != task.ratio:
            continue  # costs on the other scale have other true values
        levels = effect.profile.levels
        for name, heights, estimates in (
            ("cost", true_costs(task, index), [level.best for level in levels]),
            ("on average", true_averages(task, index), [level.average for level in levels]),
        ):
            reference = next(i for i, estimate in enumerate(estimates) if estimate.low == estimate.high == 0)
            costs = heights - heights[reference]
            for estimate, cost in zip(estimates, np.expm1(costs) if task.ratio else costs, strict=True):
                found[name].append(bool(estimate.low - SLACK <= cost <= estimate.high + SLACK))
    return {name: (sum(hits), len(hits)) for name, hits in found.items()}, float(np.mean(widths)), seconds


def _job(arguments: tuple[str, str, int, int]) -> tuple[Counts, float, float]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    return one(*arguments)


def coverage_table(options: argparse.Namespace) -> Table:
    """Coverage of each quantity by objective, way of choosing trials and number of trials."""
    table = Table(title=f"Coverage of 90% intervals, {options.seeds} studies a row", box=MARKDOWN)
    for heading in ("objective", "trials", "chosen by", *HEADINGS, "mean width of total", "seconds"):
        table.add_column(heading, no_wrap=True)
    sums: dict[str, list[tuple[int, int]]] = {heading: [] for heading in HEADINGS}
    with ProcessPoolExecutor(options.jobs) as pool:
        for trials in options.trials:
            for kind in options.objectives:
                for way in WAYS:
                    jobs = [(kind, way, trials, seed) for seed in range(100, 100 + options.seeds)]
                    rows = list(pool.map(_job, jobs))
                    cells = []
                    for heading in HEADINGS:
                        hits, count = (sum(row[0][heading][side] for row in rows) for side in (0, 1))
                        sums[heading].append((hits, count))
                        cells.append(f"{hits / count:.2f}" if count else "-")
                    width, seconds = np.mean([row[1:] for row in rows], axis=0)
                    table.add_row(kind, str(trials), way, *cells, f"{width:.2f}", f"{seconds:.1f}")
                    print(kind, trials, way, *cells, f"{width:.2f} {seconds:.1f}", file=sys.stderr, flush=True)
    totals = [tuple(map(sum, zip(*parts, strict=True))) for parts in sums.values()]
    table.add_row("all", "", "", *(f"{hits / max(count, 1):.2f}" for hits, count in totals), "", "")
    return table


def importance_table(seeds: int, trials: int = 60) -> Table:
    """The importance of a choice that explains everything, by evaluator."""
    table = Table(title=f"A choice that explains everything: its importance after {trials} trials", box=MARKDOWN)
    for heading in ("chosen by", "EffectsEvaluator", "PED-ANOVA", "fANOVA"):
        table.add_column(heading)
    for way, (sampler, pruned) in WAYS.items():
        found = []
        for seed in range(100, 100 + seeds):
            study = study_of(problem("one choice", seed), sampler, trials, seed, pruned=pruned)
            evaluators = (EffectsEvaluator(), None, optuna.importance.FanovaImportanceEvaluator(seed=0))
            found.append([optuna.importance.get_param_importances(study, evaluator=e)["c"] for e in evaluators])
        low, middle, high = np.quantile(found, (0, 0.5, 1), axis=0)
        table.add_row(way, *(f"{b:.2f} ({a:.2f} to {c:.2f})" for a, b, c in zip(low, middle, high, strict=True)))
    return table


def main() -> None:
    """Parse the command line, run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, nargs="+", default=[40, 100])
    parser.add_argument("--objectives", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="3 seeds and 60 trials")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.trials = 3, [60]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    console = Console(width=160)
    start = time.time()
    console.print(importance_table(options.seeds))
    console.print(coverage_table(options))
    packages = ", ".join(f"{m.__name__} {m.__version__}" for m in (optuna, np, scipy))
    console.print(
        f"{time.time() - start:.0f} s on {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{options.jobs} processes, Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    main()
