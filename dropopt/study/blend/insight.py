"""What a study has learned about the blend, for people, for exports and for the next study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend.effects import Efficacy, Evidence, Names, learn
from dropopt.study.blend.evidence import exported, gather
from dropopt.study.blend.surrogate import Surrogate, climb, most_rows

#: At how many points of a study the preferred blend is shown.
POINTS = 8
#: Trials before a preferred blend is worth computing.
FEWEST = 4

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Learned:
    """All that is shown: the effects, the preferred blend now, and how it moved over the trials."""

    efficacy: Efficacy
    preferred: dict[str, float]
    trajectory: tuple[tuple[int, dict[str, float]], ...]  # (trials, blend)

    def as_dict(self) -> dict[str, Any]:
        """JSON for exports and the dashboard."""
        effects = self.efficacy
        return {
            "verdict": effects.verdict,
            "thin": effects.thin,
            "trials": effects.trials,
            "matters": effects.matters,
            "unit": effects.unit if np.isfinite(effects.unit) else None,
            "methods": [[asdict(effect) for effect in stage] for stage in effects.methods],
            "synergies": [[asdict(effect) for effect in stage] for stage in effects.pairs],
            "preferred": self.preferred,
            "trajectory": [{"trials": trials, "blend": blend} for trials, blend in self.trajectory],
        }


def find_blend(trials: Sequence[FrozenTrial]) -> Names:
    """The names of the blend that ``trials`` suggested: one share per method, or one per method and stage."""
    seen = {name for trial in trials for name in trial.params}
    staged = [tuple(f"w_{m}_{stage}" for m in METHODS if f"w_{m}_{stage}" in seen) for stage in STAGES]
    plain = tuple(f"w_{m}" for m in METHODS if f"w_{m}" in seen)
    if len(plain) < 2 and not any(staged):  # methods of somebody else's
        plain = tuple(sorted(name for name in seen if name.startswith("w_")))
    names = (plain,) if len(plain) >= 2 else tuple(staged)
    if len(names[0]) < 2 or len({len(stage) for stage in names}) != 1:
        raise ConfigError("no blend in this study: its trials suggest fewer than two of the weights w_*")
    return names


def evidence_of(
    study: Study,
    names: Names | None = None,
    *,
    prior: Mapping[str, Any] | None = None,
    limit: int | None = None,
    trials: Sequence[FrozenTrial] | None = None,
) -> Evidence:
    """The study's evidence about its blend."""
    if study._is_multi_objective():
        raise ConfigError("efficacy is learned for one objective, got a study with several")
    rows = study.get_trials(deepcopy=False, states=_FINISHED) if trials is None else trials
    maximise = study.direction == StudyDirection.MAXIMIZE
    return gather(rows, names or find_blend(rows), maximise=maximise, prior=prior, limit=limit)


def learned(study: Study, names: Names | None = None, prior: Mapping[str, Any] | None = None) -> Learned:
    """Effects, preferred blend and its trajectory; the same for everyone who sees the same finished trials."""
    rows = study.get_trials(deepcopy=False, states=_FINISHED)
    names = names or find_blend(rows)
    efficacy = learn(evidence_of(study, names, prior=prior, trials=rows))
    marks = np.unique(np.linspace(0, len(rows), POINTS + 1).astype(int)[1:])
    path = []
    for mark in marks:
        table = evidence_of(study, names, prior=prior, limit=most_rows(len(names)), trials=rows[:mark])
        if len(table) >= FEWEST:
            path.append((int(mark), preferred(table)))
    return Learned(efficacy, path[-1][1] if path else {}, tuple(path))


def preferred(table: Evidence) -> dict[str, float]:
    """The blend with the best expected score, to three digits."""
    surrogate = Surrogate(table)
    mean = surrogate.mean()
    blend: dict[str, float] = {}
    for stage, names in enumerate(table.names):
        rng = np.random.default_rng(0)
        best = climb(mean, stage, surrogate.best(stage, 8), lambda shares, _: shares, rng)
        blend |= {name: round(float(share), 3) for name, share in zip(names, best, strict=True)}
    return blend


def export_evidence(study: Study, names: Names | None = None) -> dict[str, Any]:
    """The study's evidence as JSON: the ``prior`` of another study's sampler."""
    return exported(evidence_of(study, names, limit=200))


def top_configurations(study: Study, k: int = 5) -> list[dict[str, Any]]:
    """The parameters of the ``k`` best complete trials, to be enqueued elsewhere; each configuration once."""
    if study._is_multi_objective():
        raise ConfigError("top configurations need one objective, got a study with several")
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(
        (trial for trial in done if trial.values is not None and np.isfinite(trial.values[0])),
        key=lambda trial: (any(c > 0 for c in trial.constraints.values()), sign * (trial.value or 0.0), trial.number),
    )
    chosen: list[dict[str, Any]] = []
    for trial in ranked:
        if len(chosen) < k and trial.params not in chosen:
            chosen.append(dict(trial.params))
    return chosen
