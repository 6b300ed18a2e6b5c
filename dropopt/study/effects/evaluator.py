"""The importances of a study's parameters for Optuna and its tools."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optuna.importance._base import BaseImportanceEvaluator
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.study.blend.gather import finished_trials
from dropopt.study.effects.basis import DRAWS, features, simplex_draws
from dropopt.study.effects.factors import Factor
from dropopt.study.effects.importance import indices
from dropopt.study.effects.model import Model, fit


class EffectsEvaluator(BaseImportanceEvaluator):
    """Importances that a concentrated sampler does not distort, for ``optuna.importance.get_param_importances``.

    The importance of a parameter is its total Sobol index: the share of the variance of the objective, over uniform
    draws from the search space, that it has a part in. The posterior mean is returned; for intervals, see
    :func:`dropopt.study.study_effects`. PED-ANOVA, Optuna's default, compares the best trials with all others. Once a
    sampler such as TPE suggests one choice in nearly all trials, the two groups agree in it, and its importance is
    near 0 even if it explains everything.

    Conditional parameters are included, and pruned trials count by their rank. The importance of a blend of methods is
    shared out to the weights ``w_*`` by the variance that each share explains alone.

    Example:
        >>> import optuna
        >>> from dropopt.study import EffectsEvaluator
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        >>> def loss(trial):
        ...     return trial.suggest_float("inert", 0, 1) * 0 + (trial.suggest_categorical("kind", "abc") != "b")
        >>> study.optimize(loss, n_trials=20)
        >>> importances = optuna.importance.get_param_importances(study, evaluator=EffectsEvaluator())
        >>> importances["kind"] > 0.9
        True
    """

    def evaluate(
        self,
        study: Study,
        params: list[str] | None = None,
        *,
        target: Callable[[FrozenTrial], float] | None = None,
    ) -> dict[str, float]:
        """Return the importance of each parameter, the largest first.

        Args:
            study: A study, with one objective unless ``target`` is given.
            params: The parameters to return. Default: all that the trials suggested.
            target: What to explain instead of the objective; only complete trials count then.

        Raises:
            ConfigError: The study has several objectives and there is no ``target``, it has too few trials, or one of
                ``params`` is unknown.
        """
        if target is None and study._is_multi_objective():
            raise ConfigError("a study with several objectives needs a target: target=lambda trial: trial.values[0]")
        maximise = target is None and study.direction == StudyDirection.MAXIMIZE
        trials = finished_trials(study)
        model = fit(trials, maximise, target)
        if model is None:
            raise ConfigError(
                f"importances need at least 5 complete trials of different values, got {quantity(len(trials), 'trial')}"
            )
        found = dict.fromkeys((name for trial in trials for name in trial.params), 0.0)
        found |= _by_parameter(model)
        if unknown := [name for name in params or () if name not in found]:
            raise ConfigError(f"no trial suggested {', '.join(unknown)}; known: {', '.join(found)}")
        chosen = found if params is None else {name: found[name] for name in params}
        return dict(sorted(chosen.items(), key=lambda item: (-item[1], item[0])))


def _by_parameter(model: Model) -> dict[str, float]:
    found: dict[str, float] = {}
    for index, (factor, total) in enumerate(zip(model.design.factors, indices(model)[1].mean(axis=1), strict=True)):
        shares = _shares(model, index, factor) if factor.kind == "blend" else [1.0]
        found |= {name: float(total) * share for name, share in zip(factor.names, shares, strict=True)}
    return found


def _shares(model: Model, index: int, factor: Factor) -> list[float]:
    """How much of the variance of a blend each share explains alone, relative to the sum over all."""
    part = model.design.parts[index]
    blends = simplex_draws(len(factor.names), DRAWS)
    height = features(factor, blends) @ model.draws.coefficients[part.start : part.stop].mean(axis=1)
    explained = np.array([_explained(share, height) for share in blends.T]) + 1e-12
    return [float(value) for value in explained / explained.sum()]


def _explained(share: np.ndarray, height: np.ndarray) -> float:
    """The variance of the mean height given a share, from means over equal groups of it."""
    groups = np.array_split(height[np.argsort(share, kind="stable")], 16)
    return float(np.var([group.mean() for group in groups]))
