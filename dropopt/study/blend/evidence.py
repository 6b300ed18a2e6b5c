"""What finished trials say about a blend: one order-free table, the only thing that the models read.

A row is a trial: the share of each method (they sum to one), the other parameters as covariates, and a normal
score of its outcome, where higher is better whatever the study's direction. The table is a pure function of the
*set* of finished trials: rows are sorted by content, so that every worker sums the same floats in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtri
from scipy.stats import rankdata

from dropopt.config import ConfigError
from dropopt.study.blend.effects import Array, Evidence, Names

#: How many trials of its own study an imported table is worth before any new data.
PRIOR_TRIALS = 10.0

#: Rows of an imported table that are read: more would cost time and say little at that worth.
PRIOR_ROWS = 40

#: Robust deviations below the median at which an outcome is as bad as can be.
TAIL = 3.0

#: The outcome of a trial that broke a constraint: below every value, above what is not finite.
INFEASIBLE = -1e300

#: Categories beyond these say little and cost a column each: identifiers, seeds, file names.
MAX_CATEGORIES = 12


def gather(
    trials: Iterable[FrozenTrial],
    names: Names,
    *,
    maximise: bool,
    prior: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Evidence:
    """The evidence of ``trials``, in any order, with a ``prior`` from :func:`exported` beside it.

    COMPLETE and PRUNED trials that suggested any of ``names`` count, each root of a chain of retries once. Failed
    trials say nothing about a blend: they are left out, as Optuna's own samplers do. ``limit`` rows at most are
    kept, ranked among all: one half from the top, the other evenly spread over the rest.
    """
    flat = [name for stage in names for name in stage]
    rows = _roots(trials, flat)
    shares = _shares([trial.params for trial in rows], names)
    usable = np.flatnonzero(np.isfinite(shares).all(axis=(1, 2)))
    rows, shares = [rows[i] for i in usable], shares[usable]
    outcome = _outcome(rows, maximise)
    score = normal_scores(_standing(rows, outcome, maximise))
    value, unit = _values(rows, outcome, score)
    total = len(rows)
    if limit is not None and total > limit:
        kept = _kept(np.lexsort([*shares.reshape(total, -1).T, -value, -score]), limit)
        rows, shares, score, value = [rows[i] for i in kept], shares[kept], score[kept], value[kept]
    columns, covariates = _covariates(rows, set(flat))
    number = np.array([trial.number for trial in rows], dtype=np.int64)
    weight = np.ones(len(rows))
    table = Evidence(names, shares, score, value, covariates, columns, weight, number, total, unit)
    return _sorted(_with_prior(table, prior) if prior else table)


def _kept(order: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """``limit`` of ``order``, best first: one half from the top, the other evenly spread over the rest."""
    top, rest = order[: limit // 2], order[limit // 2 :]
    return np.concatenate([top, rest[np.linspace(0, len(rest) - 1, limit - limit // 2).astype(int)]])


def normal_scores(standing: Array) -> Array:
    """Ranks as quantiles of a normal distribution; ties share their mean rank, and equal values score 0."""
    if not len(standing):
        return np.zeros(0)
    return np.asarray(ndtri((rankdata(standing) - 0.5) / len(standing)))


def _roots(trials: Iterable[FrozenTrial], names: Sequence[str]) -> list[FrozenTrial]:
    """Finished trials with any of ``names``; of a chain of retries the first that completed, else was pruned."""
    wanted, complete = frozenset(names), TrialState.COMPLETE
    finished = [trial for trial in trials if trial.state in (complete, TrialState.PRUNED)]
    rows = [trial for trial in finished if not wanted.isdisjoint(trial.params)]
    chosen: dict[int, FrozenTrial] = {}
    for trial in sorted(rows, key=lambda trial: (trial.state != complete, trial.number)):
        chosen.setdefault(trial.system_attrs.get("failed_trial", trial.number), trial)
    return [chosen[root] for root in sorted(chosen)]


def _shares(params: Sequence[Mapping[str, Any]], names: Names) -> Array:
    """(n, stages, methods) shares that sum to one; an absent name has none, and an all-zero blend is NaN."""
    flat = [name for stage in names for name in stage]
    cells_of = itemgetter(*flat)  # a loop over names in Python takes milliseconds at 1,000 trials
    try:
        cells = [cells_of(row) for row in params]
    except KeyError:
        cells = [tuple(row.get(name, 0.0) for name in flat) for row in params]
    raw = np.array(cells, dtype=float).reshape(len(params), len(names), len(names[0]))
    total = raw.sum(axis=2, keepdims=True)
    valid = (total > 0) & (raw >= 0).all(axis=2, keepdims=True) & np.isfinite(total)
    return np.where(valid, raw / np.where(valid, total, 1.0), math.nan)


def _outcome(trials: Sequence[FrozenTrial], maximise: bool) -> Array:
    """Final values, higher is better; -inf for what is not finite or not complete, INFEASIBLE for what is that."""
    sign = 1.0 if maximise else -1.0

    def worth(trial: FrozenTrial) -> float:
        values = trial.values
        if trial.state != TrialState.COMPLETE or values is None or not math.isfinite(values[0]):
            return -math.inf
        if trial.system_attrs and any(limit > 0 for limit in trial.constraints.values()):
            return INFEASIBLE
        return sign * float(values[0])

    return np.array([worth(trial) for trial in trials], dtype=float)


def _standing(trials: Sequence[FrozenTrial], outcome: Array, maximise: bool) -> Array:
    """How many of the others each trial beats, ties half; pairs are compared at a step that both reached.

    Two complete trials compare by outcome, infeasible below feasible and what is not finite below everything. A
    pruned trial compares with each that went as far by the values at its own last step; one that never reported
    there has survived it. Pruned trials are placed no higher than the median of the complete ones: their
    pruner's verdict counts, and an early value alone never makes a winner.
    """
    complete = np.array([trial.state == TrialState.COMPLETE for trial in trials], dtype=bool)
    wins = np.zeros(len(trials))
    wins[complete] = _beaten(outcome[complete], outcome[complete]) - 0.5  # it ties with itself
    if complete.all():
        return wins
    reports = [trial.intermediate_values for trial in trials]
    last = np.array(
        [math.inf if done else max(steps, default=-math.inf) for done, steps in zip(complete, reports, strict=True)]
    )
    stops = np.unique(last[~complete])
    values = _at_steps(reports, stops, 1.0 if maximise else -1.0)
    for position, step in enumerate(stops):
        stopped, later, value = last == step, last > step, values[:, position]
        wins[stopped] += _beaten(value[stopped], value[stopped]) - 0.5
        wins[stopped] += _beaten(value[stopped], value[later])
        wins[later] += _beaten(value[later], value[stopped])
    if complete.any():
        wins[~complete] = np.minimum(wins[~complete], np.median(wins[complete]))
    return wins


def _at_steps(reports: Sequence[Mapping[int, float]], stops: Array, sign: float) -> Array:
    """(trials, steps) reported values, higher is better: -inf where not finite, +inf (survived) where missing.

    At step -inf stand trials pruned without a report: they tie with one another and all others survive them.
    """
    counts = np.array([len(row) for row in reports])
    steps = np.fromiter(chain.from_iterable(reports), dtype=float, count=counts.sum())
    values = np.fromiter(chain.from_iterable(row.values() for row in reports), dtype=float, count=counts.sum())
    column = np.minimum(np.searchsorted(stops, steps), len(stops) - 1)
    asked = stops[column] == steps
    found = np.full((len(reports), len(stops)), math.inf)
    found[np.ix_(counts == 0, ~np.isfinite(stops))] = 0.0
    cell = np.repeat(np.arange(len(reports)), counts)[asked], column[asked]
    found[cell] = np.where(np.isfinite(values[asked]), sign * values[asked], -math.inf)
    return found


def _beaten(values: Array, others: Array) -> Array:
    """How many of ``others`` each of ``values`` exceeds, ties half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left")
    return np.asarray((below + np.searchsorted(ordered, values, "right")) / 2.0)


def _values(trials: Sequence[FrozenTrial], outcome: Array, score: Array) -> tuple[Array, float]:
    """Outcomes, higher is better, with mean 0 and deviation 1, and how much of the outcome one deviation is.

    What is far below the rest is pulled up to it; a trial without a value of its own (pruned, infeasible, not
    finite) takes that of its rank among the complete. The unit is the slope of outcomes by scores.
    """
    known = outcome > INFEASIBLE
    if known.sum() < 2:
        return score, math.nan
    own = np.sort(outcome[known])
    low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
    spread = (high - low) / 1.349 or float(own.std()) or 1.0
    value = np.where(known, outcome, np.interp(score, np.sort(score[known]), own))
    value = np.clip((value - middle) / spread, -TAIL, 2 * TAIL)
    ordered = np.sort(value)  # sums do not depend on the order of trials, to the last bit
    deviation = float(ordered.std())
    rise = np.quantile(score[known], 0.75) - np.quantile(score[known], 0.25)
    unit = float((high - low) / rise) if rise > 0 else math.nan
    return (value - ordered.mean()) / deviation if deviation > 0 else np.zeros(len(value)), unit


def row(name: str, value: Any, distribution: BaseDistribution) -> dict[str, float]:
    """The cells of one parameter: its number, or a column for each category."""
    if isinstance(distribution, CategoricalDistribution):
        return {f"{name}={choice!r}": float(choice == value) for choice in distribution.choices}
    return {name: _number(value, distribution)}


def _number(value: Any, distribution: BaseDistribution) -> float:
    number = float(value)
    return math.log(number) if getattr(distribution, "log", False) and number > 0 else number


def _covariates(trials: Sequence[FrozenTrial], skip: set[str]) -> tuple[tuple[str, ...], Array]:
    """Columns by name, and (n, columns); a category is 0 or 1, and NaN where its parameter is absent."""
    cells: dict[str, dict[int, float]] = {}
    present: dict[str, list[int]] = {}
    categories: dict[str, set[str]] = {}
    for index, trial in enumerate(trials):
        distributions = trial.distributions
        for name, value in trial.params.items():
            if name in skip:
                continue
            column, number = name, 1.0
            if isinstance(distributions[name], CategoricalDistribution):
                column = f"{name}={value!r}"
                categories.setdefault(name, set()).add(column)
                present.setdefault(name, []).append(index)
            else:
                number = _number(value, distributions[name])
            cells.setdefault(column, {})[index] = number
    owner = {column: name for name, group in categories.items() for column in group}
    columns = tuple(sorted(c for c in cells if c not in owner or len(categories[owner[c]]) <= MAX_CATEGORIES))
    table = np.full((len(trials), len(columns)), math.nan)
    for position, column in enumerate(columns):
        if column in owner:
            table[present[owner[column]], position] = 0.0
        table[list(cells[column]), position] = list(cells[column].values())
    return columns, table


def _with_prior(table: Evidence, prior: Mapping[str, Any]) -> Evidence:
    """``table`` and the rows of ``prior``, together worth PRIOR_TRIALS at first and ever less as trials come in."""
    foreign = imported(prior, table.names)
    if not len(foreign):
        return table
    if len(foreign) > PRIOR_ROWS:
        foreign = foreign.take(_kept(np.argsort(-foreign.score, kind="stable"), PRIOR_ROWS))
    columns = tuple(sorted({*table.columns, *foreign.columns}))
    worth = PRIOR_TRIALS * PRIOR_TRIALS / (PRIOR_TRIALS + table.trials)
    weight = min(1.0, worth / len(foreign))

    def spread(part: Evidence) -> Array:
        wide = np.full((len(part), len(columns)), math.nan)
        wide[:, [columns.index(column) for column in part.columns]] = part.covariates
        return wide

    own = np.concatenate([table.weight, np.full(len(foreign), weight)])
    number = np.concatenate([table.number, foreign.number])
    blend, score, value = (
        np.concatenate([getattr(table, part), getattr(foreign, part)]) for part in ("blend", "score", "value")
    )
    cells = np.concatenate([spread(table), spread(foreign)])
    return Evidence(table.names, blend, score, value, cells, columns, own, number, table.trials, table.unit)


def imported(prior: Mapping[str, Any], names: Names) -> Evidence:
    """The rows of an exported table that can speak about ``names``; raises ConfigError when it is not one."""
    try:
        theirs: Names = tuple(tuple(str(name) for name in stage) for stage in prior["names"])
        columns = tuple(str(column) for column in prior["columns"])
        rows = prior["rows"]
        blends = [
            {
                name: float(share)
                for stage, shares in zip(theirs, row["blend"], strict=True)
                for name, share in zip(stage, shares, strict=True)
            }
            for row in rows
        ]
        score = np.array([float(row["score"]) for row in rows])
        values = np.array(
            [[math.nan if cell is None else float(cell) for cell in row["covariates"]] for row in rows],
            dtype=float,
        ).reshape(len(rows), len(columns))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"a prior must be what export_evidence gives, got one that is not: {error!r}") from None
    flat = {name for stage in names for name in stage}
    if not any(flat & set(stage) for stage in theirs):
        raise ConfigError(f"the prior speaks of {_words(theirs)}, this study of {_words(names)}")
    shares = _shares(blends, names)
    usable = np.isfinite(shares).all(axis=(1, 2)) & np.isfinite(score)
    score, number = score[usable], np.full(int(usable.sum()), -1, dtype=np.int64)
    return Evidence(names, shares[usable], score, score, values[usable], columns, np.ones(len(score)), number, 0)


def exported(table: Evidence) -> dict[str, Any]:
    """The study's own rows of ``table`` as JSON, without names of anything but parameters."""
    own = table.take(np.flatnonzero(table.number >= 0))
    cells = [[float(f"{c:.6g}") if math.isfinite(c) else None for c in row] for row in own.covariates.tolist()]
    return {
        "names": [list(stage) for stage in own.names],
        "columns": list(own.columns),
        "rows": [
            {"blend": blend, "score": score, "covariates": row}
            for blend, score, row in zip(own.blend.round(6).tolist(), own.score.round(6).tolist(), cells, strict=True)
        ],
    }


def _sorted(table: Evidence) -> Evidence:
    """Rows in an order that depends on their content alone."""
    if len(table) < 2:
        return table
    keys = [table.covariates[:, i] for i in range(table.covariates.shape[1])]
    keys += [*table.blend.reshape(len(table), -1).T, table.weight, table.score]
    return table.take(np.lexsort([np.where(np.isnan(key), math.inf, key) for key in keys]))


def _words(names: Names) -> str:
    return ", ".join(name for stage in names for name in stage)
