"""The effects of everything that a study varied, and the answers to the five questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError
from dropopt.study.blend.effects import SPARE_TRIALS
from dropopt.study.blend.gather import finished_trials
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.effects.applied import applied_effect
from dropopt.study.effects.factors import Factor, factors_of
from dropopt.study.effects.importance import explained, importances
from dropopt.study.effects.intervals import Estimate
from dropopt.study.effects.model import FEWEST, fit
from dropopt.study.effects.objective import Objective, objective_of
from dropopt.study.effects.profiles import profiles
from dropopt.study.effects.questions import OFF, turns_off
from dropopt.study.effects.words import Answer, FactorEffect, Writer


@dataclass(frozen=True)
class Effects:
    """What a study found out about its parameters.

    Attributes:
        trials: Number of trials that count: complete and pruned.
        complete: Number of complete trials.
        needed: Number of trials below which no claim is made.
        ratio: Whether costs are fractions of the objective; else they are in its units.
        noise: Standard deviation of the outcome of one configuration, as a fraction or in units of the objective.
        explained: Share of the variance over the space that is not noise.
        factors: The effects, the most important first; empty if there are too few trials to fit the model.
        answers: The answers to the five questions.
        applied: The effect of the applied drop rate; None if the trials did not record theirs.
        objective: What the study optimises.
    """

    trials: int
    complete: int
    needed: int
    ratio: bool
    noise: Estimate | None
    explained: Estimate | None
    factors: tuple[FactorEffect, ...]
    answers: tuple[Answer, ...]
    applied: FactorEffect | None = None
    objective: Objective = field(default_factory=Objective)

    @property
    def thin(self) -> bool:
        """Whether there are too few trials for any claim."""
        return self.trials < self.needed or not self.factors

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "trials": self.trials,
            "complete": self.complete,
            "needed": self.needed,
            "thin": self.thin,
            "costs": self.objective.cost(ratio=self.ratio),
            "noise": asdict(self.noise) if self.noise else None,
            "explained": asdict(self.explained) if self.explained else None,
            "answers": {answer.question: {"text": answer.text, "found": answer.found} for answer in self.answers},
            "parameters": [_plain(effect) for effect in self.factors],
            "applied_rate": self.applied and _plain(self.applied),
        }


def study_effects(study: Study) -> Effects:
    """Estimate what each parameter of a study does, and answer the five questions about dropout.

    A model of the outcome over the whole search space is fitted to the finished trials, and evaluated over the space
    rather than over the trials. Trials that a sampler such as TPE concentrates near good values therefore do not
    distort the effects. The result is a pure function of the set of trials.

    Args:
        study: A study with one objective, of dropopt or of your own. Its parameters may be conditional.

    Returns:
        The effects with 90% intervals, and the answers in words.

    Raises:
        ConfigError: The study has several objectives.

    Example:
        >>> import optuna
        >>> from dropopt.study import study_effects
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> def loss(trial):
        ...     rate, inert = trial.suggest_float("r0", 0, 0.7), trial.suggest_float("other", 0, 1)
        ...     return 1 + (rate - 0.3) ** 2
        >>> study.optimize(loss, n_trials=15)
        >>> effects = study_effects(study)
        >>> [effect.name for effect in effects.factors]
        ['r0', 'other']
        >>> effects.answers[4].text[:14]
        'Dropout helps:'
    """
    if study._is_multi_objective():
        raise ConfigError("effects are estimated for one objective, got a study with several")
    maximise = study.direction == StudyDirection.MAXIMIZE
    return effects_of(finished_trials(study), maximise=maximise, objective=objective_of(study))


def effects_of(
    trials: Sequence[FrozenTrial],
    *,
    maximise: bool,
    objective: Objective | None = None,
) -> Effects:
    """The effects that finished trials show; see :func:`study_effects`.

    Args:
        trials: Complete and pruned trials.
        maximise: Whether a higher value is better.
        objective: What the study optimises. Default: the objective value.
    """
    objective = objective or Objective(maximise=maximise)
    model = fit(trials, maximise)
    if model is None:
        return _unknown(trials, objective)
    factors, ratio = model.design.factors, model.response.ratio
    off = {factor.name: OFF[factor.name] for factor in factors if turns_off(factor)}
    found = [FactorEffect(*parts) for parts in zip(factors, importances(model), profiles(model, off), strict=True)]
    found.sort(key=lambda effect: (-effect.importance.total.value, effect.name))
    needed = needed_trials(factors)
    applied = applied_effect(trials, maximise) if model.trials >= needed else None
    effects = {one.name: one for one in found}
    writer = Writer(
        factors, effects, trials=model.trials, needed=needed, ratio=ratio, objective=objective, applied=applied
    )
    return Effects(
        trials=model.trials,
        complete=model.complete,
        needed=needed,
        ratio=ratio,
        noise=Estimate.of(model.draws.noise * model.response.unit),
        explained=Estimate.of(explained(model)),
        factors=tuple(found),
        answers=writer.answers(),
        applied=applied,
        objective=objective,
    )


def _unknown(trials: Sequence[FrozenTrial], objective: Objective) -> Effects:
    """The effects of a study whose trials are too few for the model."""
    rows = counted_trials(trials, {name for trial in trials for name in trial.params})
    factors = factors_of(rows)
    needed = max(needed_trials(factors), len(rows) + FEWEST)
    answers = Writer(factors, {}, trials=len(rows), needed=needed, ratio=True, objective=objective).answers()
    complete = sum(trial.state == TrialState.COMPLETE for trial in rows)
    return Effects(len(rows), complete, needed, True, None, None, (), answers, objective=objective)


def needed_trials(factors: Sequence[Factor]) -> int:
    """Two trials for each number, one for each further choice or method, and a few to estimate the noise."""

    def terms(factor: Factor) -> int:
        if factor.kind == "number":
            return 2
        return len(factor.choices if factor.kind == "choice" else factor.names) - 1

    return sum(terms(factor) for factor in factors) + SPARE_TRIALS


def _plain(effect: FactorEffect) -> dict[str, Any]:
    profile = effect.profile
    return {
        "name": effect.name,
        "kind": effect.factor.kind,
        "importance": asdict(effect.importance.total),
        "alone": asdict(effect.importance.first),
        "best": asdict(profile.optimum) if profile.optimum else None,
        "levels": [asdict(level) for level in profile.levels],
    }
