"""What a study has learned about its blend: for people, for exports and for later studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError
from dropopt.study.blend.climb import climb
from dropopt.study.blend.effects import Efficacy, learn
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.gather import evidence_of, finished_trials, names_in
from dropopt.study.blend.names import Names
from dropopt.study.blend.outcomes import is_infeasible
from dropopt.study.blend.surrogate import Surrogate, row_limit
from dropopt.study.blend.transfer import exported

#: Number of points of a study at which the preferred blend is shown.
POINTS = 8
#: Rows below which no preferred blend is computed.
FEWEST = 4
#: Blends of the best trials from which the preferred blend is searched.
INCUMBENTS = 8
#: Rows of an exported table.
EXPORTED_ROWS = 200


@dataclass(frozen=True)
class Learned:
    """Effects, the preferred blend, and the preferred blend after increasing numbers of trials."""

    efficacy: Efficacy
    preferred: dict[str, float]
    trajectory: tuple[tuple[int, dict[str, float]], ...]

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


def learned(study: Study, names: Names | None = None, prior: Mapping[str, Any] | None = None) -> Learned:
    """Estimate from the finished trials of ``study`` which methods work; a pure function of them and ``prior``.

    Args:
        study: A study with one objective, of dropopt or of your own, whose trials suggest weights ``w_*``.
        names: The names of the weights, one tuple for each stage of training. Default: as the trials suggest them.
        prior: Evidence of another study, as :func:`export_evidence` returns it.

    Returns:
        The effects with their intervals, the preferred blend, and how the preferred blend changed over the trials.

    Raises:
        NoBlendError: The trials suggested no blend, or the study has several objectives.

    Example:
        >>> import optuna
        >>> from dropopt.study import learned
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> def loss(trial):
        ...     first, second = (trial.suggest_float(name, 0, 1) for name in ("w_adaptive", "w_pfid"))
        ...     return second / (first + second)
        >>> study.optimize(loss, n_trials=12)
        >>> found = learned(study)
        >>> [effect.name for effect in found.efficacy.methods[0]]
        ['w_adaptive', 'w_pfid']
        >>> found.preferred["w_adaptive"] > 0.9
        True
    """
    trials = finished_trials(study)
    names = names or names_in(trials)
    efficacy = learn(evidence_of(study, names, prior=prior, trials=trials))
    trajectory = []
    for count in np.unique(np.linspace(0, len(trials), POINTS + 1).astype(int)[1:]):
        table = evidence_of(study, names, prior=prior, limit=row_limit(len(names)), trials=trials[:count])
        if len(table) >= FEWEST:
            trajectory.append((int(count), preferred(table)))
    return Learned(efficacy, trajectory[-1][1] if trajectory else {}, tuple(trajectory))


def preferred(table: Evidence) -> dict[str, float]:
    """The blend that maximises the posterior mean, rounded to three digits."""
    surrogate = Surrogate(table)
    mean = surrogate.mean()
    blend: dict[str, float] = {}
    for stage, names in enumerate(table.names):
        rng = np.random.default_rng(0)
        best = climb(mean, stage, surrogate.best(stage, INCUMBENTS), lambda shares, _: shares, rng)
        blend |= {name: round(float(share), 3) for name, share in zip(names, best, strict=True)}
    return blend


def export_evidence(study: Study, names: Names | None = None) -> dict[str, Any]:
    """Return the evidence of ``study`` about its blend, for the ``prior`` of another study's sampler.

    Args:
        study: A study with one objective, of dropopt or of your own, whose trials suggest weights ``w_*``.
        names: The names of the weights, one tuple for each stage of training. Default: as the trials suggest them.

    Returns:
        Plain values that JSON can hold: shares, normal scores and covariates of the trials.

    Raises:
        NoBlendError: The trials suggested no blend, or the study has several objectives.

    Example:
        >>> import optuna
        >>> from dropopt.study import EfficacySampler, export_evidence
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> def loss(trial):
        ...     first, second = (trial.suggest_float(name, 0, 1) for name in ("w_adaptive", "w_pfid"))
        ...     return second / (first + second)
        >>> study.optimize(loss, n_trials=3)
        >>> prior = export_evidence(study)
        >>> len(prior["rows"])
        3
        >>> sampler = EfficacySampler(blend=("w_adaptive", "w_pfid"), prior=prior)
    """
    return exported(evidence_of(study, names, limit=EXPORTED_ROWS))


def top_configurations(study: Study, k: int = 5) -> list[dict[str, Any]]:
    """Return the parameters of the ``k`` best complete trials, without duplicates; feasible trials come first.

    Args:
        study: A study with one objective.
        k: The largest number of configurations to return.

    Returns:
        One dictionary of parameters for each configuration, the best first. Trials whose value is not finite are
        left out.

    Raises:
        ConfigError: The study has several objectives.

    Example:
        >>> import optuna
        >>> from dropopt.study import top_configurations
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study()
        >>> for rate, loss in ((0.1, 0.5), (0.3, 0.2)):
        ...     study.enqueue_trial({"r0": rate})
        ...     study.optimize(lambda trial: loss + 0 * trial.suggest_float("r0", 0, 1), n_trials=1)
        >>> top_configurations(study, k=1)
        [{'r0': 0.3}]
    """
    if study._is_multi_objective():
        raise ConfigError("top configurations need one objective, got a study with several")
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0

    def order(trial: FrozenTrial) -> tuple[bool, float, int]:
        return is_infeasible(trial), sign * (trial.value or 0.0), trial.number

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finite = (trial for trial in done if trial.values is not None and np.isfinite(trial.values[0]))
    chosen: list[dict[str, Any]] = []
    for trial in sorted(finite, key=order):
        if len(chosen) < k and trial.params not in chosen:
            chosen.append(dict(trial.params))
    return chosen
