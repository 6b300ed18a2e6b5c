"""From the trials of a study to the table of evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError
from dropopt.study.blend.covariates import covariates_of
from dropopt.study.blend.evidence import Evidence, thinned
from dropopt.study.blend.mixture import blends_of, is_weight
from dropopt.study.blend.names import Names, NoBlendError, flatten, suggested_blend
from dropopt.study.blend.outcomes import counted_trials, outcomes_of, standardised
from dropopt.study.blend.ranks import normal_scores, wins_of
from dropopt.study.blend.transfer import with_prior

#: States of the trials that can count as evidence.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def gather(
    trials: Iterable[FrozenTrial],
    names: Names,
    *,
    maximise: bool,
    prior: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Evidence:
    """The evidence of ``trials`` about the blend ``names``; the order of trials does not matter.

    Args:
        trials: Trials in any state; see :func:`~dropopt.study.blend.outcomes.counted_trials` for those that count.
        names: Parameter names of the blend, by stage.
        maximise: Whether a higher value is better.
        prior: The exported table of another study.
        limit: Number of trials to keep, half of them from the top; scores are computed before, from all trials.
    """
    flat = flatten(names)
    rows = counted_trials(trials, flat)
    blend = blends_of([trial.params for trial in rows], names)
    usable = np.flatnonzero(np.isfinite(blend).all(axis=(1, 2)))
    rows, blend = [rows[i] for i in usable], blend[usable]
    outcome = outcomes_of(rows, maximise)
    score = normal_scores(wins_of(rows, outcome, maximise))
    value, unit = standardised(outcome, score)
    total = len(rows)
    if limit is not None and total > limit:
        kept = thinned(np.lexsort([*blend.reshape(total, -1).T, -value, -score]), limit)
        rows, blend, score, value = [rows[i] for i in kept], blend[kept], score[kept], value[kept]
    columns, covariates = covariates_of(rows, set(flat))
    number = np.array([trial.number for trial in rows], dtype=np.int64)
    table = Evidence(names, blend, score, value, covariates, columns, np.ones(len(rows)), number, total, unit)
    return (with_prior(table, prior) if prior else table).sorted()


def finished_trials(study: Study) -> list[FrozenTrial]:
    """The trials of ``study`` that can count as evidence, not copied."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def names_in(trials: Sequence[FrozenTrial]) -> Names:
    """The blend among the numbers that ``trials`` suggested; raises NoBlendError if there is none."""
    return suggested_blend(name for trial in trials for name, value in trial.params.items() if is_weight(value))


def evidence_of(
    study: Study,
    names: Names | None = None,
    *,
    prior: Mapping[str, Any] | None = None,
    limit: int | None = None,
    trials: Sequence[FrozenTrial] | None = None,
) -> Evidence:
    """The evidence of ``study``, or of some of its ``trials``; for the arguments see :func:`gather`.

    Raises:
        NoBlendError: The trials suggested no blend, or the study has several objectives.
        ConfigError: The prior is not an exported table, or is about other weights.
    """
    if study._is_multi_objective():
        raise NoBlendError("efficacy is learned for one objective, got a study with several")
    rows = finished_trials(study) if trials is None else trials
    names, maximise = names or names_in(rows), study.direction == StudyDirection.MAXIMIZE
    try:
        return gather(rows, names, maximise=maximise, prior=prior, limit=limit)
    except ConfigError as error:  # of the prior
        raise ConfigError(f"study {study.study_name!r}: {error}") from None
