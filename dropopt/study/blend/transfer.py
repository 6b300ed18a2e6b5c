"""Transfer between studies: a table as JSON, and as a prior whose weight decreases as trials come in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dropopt.config import ConfigError
from dropopt.study.blend.arrays import Array
from dropopt.study.blend.evidence import PRIOR_ROW, Evidence, thinned
from dropopt.study.blend.mixture import blends_of
from dropopt.study.blend.names import Names, flatten

#: Total weight of a prior before the first trial of the study, in trials.
PRIOR_TRIALS = 10.0

#: Rows of a prior that are read; more would cost time and add little at that weight.
PRIOR_ROWS = 40


def exported(table: Evidence) -> dict[str, Any]:
    """The study's own rows of ``table`` as JSON: blends, scores and covariates, rounded to 6 digits."""
    own = table.take(np.flatnonzero(table.number != PRIOR_ROW))
    cells = [[float(f"{c:.6g}") if math.isfinite(c) else None for c in row] for row in own.covariates.tolist()]
    return {
        "names": [list(stage) for stage in own.names],
        "columns": list(own.columns),
        "rows": [
            {"blend": blend, "score": score, "covariates": row}
            for blend, score, row in zip(own.blend.round(6).tolist(), own.score.round(6).tolist(), cells, strict=True)
        ],
    }


def imported(prior: Mapping[str, Any], names: Names) -> Evidence:
    """The rows of an exported table with usable shares of ``names``, each of weight 1.

    Raises:
        ConfigError: ``prior`` is not an exported table, or it has none of ``names``.
    """
    try:
        stages: Names = tuple(tuple(str(name) for name in stage) for stage in prior["names"])
        columns = tuple(str(column) for column in prior["columns"])
        rows = prior["rows"]
        params = [
            {
                name: float(share)
                for stage, shares in zip(stages, row["blend"], strict=True)
                for name, share in zip(stage, shares, strict=True)
            }
            for row in rows
        ]
        score = np.array([float(row["score"]) for row in rows])
        covariates = np.array(
            [[math.nan if cell is None else float(cell) for cell in row["covariates"]] for row in rows],
            dtype=float,
        ).reshape(len(rows), len(columns))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"a prior must be a dictionary from export_evidence, got an invalid one: {error!r}") from None
    theirs, ours = flatten(stages), flatten(names)
    if not set(ours) & set(theirs):
        raise ConfigError(f"the prior is about {', '.join(theirs)}, but this study searches {', '.join(ours)}")
    blend = blends_of(params, names)
    usable = np.isfinite(blend).all(axis=(1, 2)) & np.isfinite(score)
    score, number = score[usable], np.full(int(usable.sum()), PRIOR_ROW, dtype=np.int64)
    # The value of a prior's row is its score: outcomes of another study are not comparable.
    return Evidence(names, blend[usable], score, score, covariates[usable], columns, np.ones(len(score)), number, 0)


def with_prior(table: Evidence, prior: Mapping[str, Any]) -> Evidence:
    """``table`` followed by rows of ``prior``, whose total weight decreases with the number t of trials.

        weight = PRIOR_TRIALS^2 / (PRIOR_TRIALS + t)

    It is shared evenly by the rows, of which none weighs more than a trial.
    """
    foreign = imported(prior, table.names)
    if not len(foreign):
        return table
    if len(foreign) > PRIOR_ROWS:
        foreign = foreign.take(thinned(np.argsort(-foreign.score, kind="stable"), PRIOR_ROWS))
    columns = tuple(sorted({*table.columns, *foreign.columns}))
    total = PRIOR_TRIALS * PRIOR_TRIALS / (PRIOR_TRIALS + table.trials)
    weight = np.full(len(foreign), min(1.0, total / len(foreign)))

    def widened(part: Evidence) -> Array:
        wide = np.full((len(part), len(columns)), math.nan)
        wide[:, [columns.index(column) for column in part.columns]] = part.covariates
        return wide

    return Evidence(
        names=table.names,
        blend=np.concatenate([table.blend, foreign.blend]),
        score=np.concatenate([table.score, foreign.score]),
        value=np.concatenate([table.value, foreign.value]),
        covariates=np.concatenate([widened(table), widened(foreign)]),
        columns=columns,
        weight=np.concatenate([table.weight, weight]),
        number=np.concatenate([table.number, foreign.number]),
        trials=table.trials,
        unit=table.unit,
    )
