"""Which configurations of a search are trained again: the best by posterior mean, and the anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.blend.gather import FINISHED
from dropopt.study.confirm.posterior import expected_scores
from dropopt.study.store.anchor_names import name_of, without_dropout
from dropopt.study.store.keys import ANCHOR, CONFIG
from dropopt.study.store.queries import count, diverged, has_result, judged, optimised, ranked

#: Finished trials, and complete ones, below which no model is fitted, and the best values are chosen.
FEWEST_FINISHED, FEWEST_COMPLETE = 8, 4

#: How the configurations were chosen, as it is printed and stored.
BY_MODEL, BY_VALUE = "posterior mean", "value (too few trials for a model)"


@dataclass(frozen=True)
class Candidate:
    """A configuration to train again."""

    #: The number of its trial in the search.
    trial: int
    run: RunConfig
    #: Its value in the search, of one seed.
    searched: float
    #: The name of the anchor that it is; empty if it is none.
    anchor: str = ""
    #: The name of the anchor, or of the entry of a portfolio, that it is; empty if it is neither.
    named: str = ""

    @property
    def name(self) -> str:
        """How it is called in tables: ``no dropout``, ``trial 12`` or ``trial 9 (portfolio 3: channel, r0 0.2)``."""
        return self.anchor or f"trial {self.trial}" + (f" ({self.named})" if self.named else "")


@dataclass(frozen=True)
class Candidates:
    """The configurations to train again, the most promising first, and how they were chosen."""

    all: tuple[Candidate, ...]
    chosen_by: str

    @property
    def nothing(self) -> Candidate | None:
        """The best of the anchors without dropout; None if there is none."""
        return next((one for one in self.all if without_dropout(one.anchor)), None)  # the anchors are ordered by value


def choose_candidates(study: optuna.Study, top: int, *, anchors: bool = True, by: str | None = None) -> Candidates:
    """Choose the configurations of ``study`` to train again.

    Args:
        study: The search.
        top: The number of configurations with the best posterior means; of equal ones, the earlier trial.
        anchors: Whether the anchors are added, besides the ``top``; otherwise they are trials like any other.
        by: What the trials are judged by, ``loss`` or ``accuracy``. Default: what the study optimised.

    Raises:
        ConfigError: The study has no complete trial with a configuration.
    """
    trials = study.get_trials(deepcopy=False)
    by = by or optimised(study)
    complete = {trial.number: judged(trial, by, study) for trial in ranked(trials)}
    usable = [
        trials[number]
        for number in sorted(complete, key=lambda number: (complete[number], number))
        if CONFIG in trials[number].user_attrs and not diverged(trials[number], study)
    ]
    if not usable:
        raise ConfigError(
            f"study {study.study_name!r} has no completed trial that could be confirmed ({count(trials)}); run it first"
        )
    ordered, chosen_by = usable, BY_VALUE
    finished = [trial for trial in trials if trial.state in FINISHED and trial.params]
    if len(finished) >= FEWEST_FINISHED and sum(map(has_result, finished)) >= FEWEST_COMPLETE:
        outcome = np.array([-complete.get(trial.number, math.inf) for trial in finished])
        scores = dict(zip((t.number for t in finished), expected_scores(finished, outcome), strict=True))
        ordered = sorted(usable, key=lambda trial: (-scores.get(trial.number, 0.0), trial.number))
        chosen_by = BY_MODEL
    named = [trial for trial in usable if anchors and ANCHOR in trial.user_attrs]
    others = [trial for trial in _distinct([*named, *ordered]) if trial not in named]
    chosen = others[:top] + _distinct(named)
    return Candidates(tuple(_candidate(trial, complete[trial.number]) for trial in chosen), chosen_by)


def _distinct(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without later ones of the same parameters."""
    found: dict[str, FrozenTrial] = {}
    for trial in trials:
        found.setdefault(repr(sorted(trial.params.items())), trial)
    return list(found.values())


def _candidate(trial: FrozenTrial, value: float) -> Candidate:
    run = RunConfig.parse(trial.user_attrs[CONFIG])
    return Candidate(trial.number, run, value, trial.user_attrs.get(ANCHOR, ""), name_of(trial))
