"""EfficacySampler: an Optuna sampler that samples the blend of methods and leaves all else to another sampler."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import ConfigError
from dropopt.study.blend.climb import climb, random_blend
from dropopt.study.blend.covariates import cells_of
from dropopt.study.blend.gather import FINISHED, evidence_of
from dropopt.study.blend.names import BLEND, blend_names, flatten
from dropopt.study.blend.simplex import Simplex, external, numeric, project
from dropopt.study.blend.suggested import Suggested
from dropopt.study.blend.surrogate import Surrogate, row_limit
from dropopt.study.blend.transfer import imported
from dropopt.study.blend.wrapped import enumerates, fixed_params, hide

#: The user attribute of a trial that says how its blend was sampled.
STAMP = "efficacy"
#: Fraction of the draws that ignore the evidence, so that no method is ever excluded.
RANDOMISED = 0.1
#: Smallest share of a method in a draw.
FLOOR = 0.001
#: Trials before the first model, for each stage.
STARTUP = 8
#: Blends of the best trials from which the maximum of a draw is searched.
INCUMBENTS = 6
#: Largest number of running trials that are remembered. Trials created by ``ask`` that never end would accumulate.
REMEMBERED = 512
#: With t finished trials, a model is shared by the draws of t / RENEWALS trials.
RENEWALS = 50


@dataclass
class _Running:
    """What is remembered of a running trial: parameters sampled by the base, and values of the blend."""

    sampled: dict[str, Any] = field(default_factory=dict)
    blend: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Model:
    """The last model.

    Attributes:
        surrogate: The model; None if there were too few trials.
        trials: The number of trials that it was fitted to; None if it was not fitted.
        last: The last one of them, by number.
        count: How many of them count.
    """

    surrogate: Surrogate | None = None
    trials: int | None = None
    last: FrozenTrial | None = None
    count: int = 0


class EfficacySampler(BaseSampler):
    """Samples the shares of a blend by Thompson sampling, and all other parameters with another sampler.

    The shares are parameters in [0, 1] that the objective divides by their sum. A Gaussian process over blends is
    fitted to the finished trials. For each trial, a function is drawn from its posterior and maximised over the
    simplex, given the trial's other parameters as far as they are known. Some draws ignore the evidence, so that no
    method is ever given up. The sampler supports one objective, pruned trials, conditional shares, enqueued trials
    and any number of workers.

    A draw depends only on the seed, the trial's number and parameters, and the finished trials in storage. All workers
    therefore use the same model, and a study can be resumed by a new sampler. Two things are remembered between
    calls. The last model is kept to save time; it is a function of the trials in storage and is fitted again when
    they change or the sampler is restarted. The values sampled for a running trial are kept until the trial ends,
    because Optuna requests one parameter at a time and all shares must come from one draw.

    Each trial gets the user attribute ``efficacy`` with the number of trials that counted as evidence, whether the
    draw ignored them, and the kind of model.

    Args:
        base: Samples the parameters that are not part of the blend. Default: a multivariate
            :class:`optuna.samplers.TPESampler` with ``constant_liar=True``.
        blend: Names of the parameters that form the blend, at least two; or one sequence of names for each stage of
            training. Default: the weights ``w_<method>`` of the engine.
        seed: Seed of the blend's draws and of the default base. Default: not reproducible.
        stages: Suffixes of the stages; for example, ``("early", "late")`` makes ``w_pfid`` the two parameters
            ``w_pfid_early`` and ``w_pfid_late``. Only if ``blend`` is one sequence.
        prior: Evidence of an earlier study, from ``export_evidence``. It counts as 10 trials at first, and less as
            trials finish.
        floor: Smallest share of a method in a draw, in [0, 1 / number of methods).
        randomised: Fraction of the draws that ignore the evidence, in (0, 1].

    Raises:
        ConfigError: An argument is out of range, names repeat or differ in number between stages, or ``prior`` is
            not an exported table about this blend.

    Source:
        Thompson (1933) for the strategy; Scheffe (1958) for mixtures; Wilson et al. (2020), "Efficiently Sampling
        Functions from Gaussian Process Posteriors", for the draws.

    Example:
        >>> import optuna
        >>> from dropopt.study import EfficacySampler
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> def objective(trial):
        ...     a, b = (trial.suggest_float(name, 0.0, 1.0) for name in ("w_a", "w_b"))
        ...     return (a / (a + b) - 0.7) ** 2
        >>> sampler = EfficacySampler(optuna.samplers.RandomSampler(seed=0), blend=("w_a", "w_b"), seed=0)
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective, n_trials=12)
        >>> bool(abs(study.best_params["w_a"] - 0.7) < 0.1)
        True
        >>> study.trials[-1].user_attrs["efficacy"]["evidence"]
        11
    """

    def __init__(
        self,
        base: BaseSampler | None = None,
        blend: Sequence[str] | Sequence[Sequence[str]] = BLEND,
        *,
        seed: int | None = None,
        stages: Sequence[str] | None = None,
        prior: Mapping[str, Any] | None = None,
        floor: float = FLOOR,
        randomised: float = RANDOMISED,
    ) -> None:
        self.names = blend_names(blend, stages)
        methods = len(self.names[0])
        if not 0 <= floor < 1 / methods:
            raise ConfigError(f"floor must be in [0, {1 / methods:g}), got {floor!r}")
        if not 0 < randomised <= 1:
            raise ConfigError(f"randomised must be in (0, 1], got {randomised!r}")
        if prior is not None:
            imported(prior, self.names)  # report an invalid prior now, not in the first trial
        self._base = base if base is not None else TPESampler(multivariate=True, constant_liar=True, seed=seed)
        self._seed, self._prior, self._floor, self._randomised = seed, prior, floor, randomised
        self._flat = frozenset(flatten(self.names))
        self._fixed_by_base = fixed_params(self._base)
        self._hides_blend = enumerates(self._base)
        self._lock = threading.Lock()
        self._running: OrderedDict[int, _Running] = OrderedDict()
        self._model = _Model()
        self._suggested = Suggested(self._flat)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._base})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_model", "_suggested")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._model, self._suggested = threading.Lock(), _Model(), Suggested(self._flat)

    # -- the methods of an Optuna sampler

    def reseed_rng(self) -> None:
        """Reseed the base. The blend needs no reseeding: its seed includes the trial number."""
        self._base.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Forget any trial of another study with the same id, and call the base."""
        self._running.pop(trial._trial_id, None)
        self._base.before_trial(*self._view(study, trial))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The search space of the base."""
        return self._base.infer_relative_search_space(*self._view(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters that the base samples, without the blend; the blend is sampled given their values."""
        params = self._base.sample_relative(*self._view(study, trial), search_space)
        params = {name: value for name, value in params.items() if name not in self._flat}
        self._remembered(trial).sampled = params
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A share, from the joint draw of the trial; for any other parameter, the value that the base samples."""
        if param_name not in self._flat or not numeric(param_distribution):
            view = self._view(study, trial)
            return self._base.sample_independent(*view, param_name, param_distribution)
        if study._is_multi_objective():
            raise ConfigError("EfficacySampler supports one objective, got a study with several")
        if param_name in self._fixed_by_base:
            return self._fixed_by_base[param_name]
        given = {name: float(value) for name, value in trial.params.items() if name in self._flat}
        drawn = self._remembered(trial).blend
        if param_name not in drawn or any(drawn.get(k) != v for k, v in given.items()):
            drawn = self._draw(study, trial, {param_name: param_distribution}, given)
        value = float(project(np.array([drawn[param_name]]), param_distribution)[0])
        self._remembered(trial).blend = {**drawn, param_name: value}
        return external(value, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stamp a trial whose blend was given, not drawn; forget the trial; call the base."""
        self._running.pop(trial._trial_id, None)
        if STAMP not in trial.user_attrs and not self._flat.isdisjoint(trial.params):
            self._stamp(study, trial, 0, randomised=False, model="given")
        self._base.after_trial(*self._view(study, trial), state, values)

    # -- drawing

    def _draw(
        self, study: Study, trial: FrozenTrial, known: dict[str, BaseDistribution], given: dict[str, float]
    ) -> dict[str, float]:
        """One joint draw of all names, in which those in ``given`` keep their values.

        The trials come from the storage, which may keep a list of the finished ones. Optuna's own cache of a study goes
        through all trials to find them, which takes 2 ms at 10,000 trials.
        """
        trials = study.get_trials(deepcopy=False, states=FINISHED)
        distributions = {**_latest(trials, self._flat), **trial.distributions, **known}
        absent = self._not_suggested(trial, trials) - known.keys() - given.keys()
        held = {**dict.fromkeys(absent, 0.0), **self._fixed(trial), **given}
        simplex = Simplex(self.names, distributions, held, self._floor)
        rng = np.random.default_rng(None if self._seed is None else [self._seed, trial.number, len(given)])
        surrogate, count = self._surrogate(study, trials)
        stages = len(self.names)
        if surrogate is None or rng.uniform() < self._randomised:
            values = [simplex.values(random_blend(rng, len(self.names[s]))[None], s)[0] for s in range(stages)]
            randomised, model = True, "uniform"
        else:
            path, model = surrogate.draw(rng, surrogate.standardise(self._covariates(trial, trials)))
            randomised = False
            values = [
                climb(path, s, surrogate.best(s, INCUMBENTS), simplex.values, rng, stages=stages) for s in range(stages)
            ]
        if STAMP not in trial.user_attrs:
            self._stamp(study, trial, count, randomised=randomised, model=model)
        return {
            name: float(value)
            for stage, row in zip(self.names, values, strict=True)
            for name, value in zip(stage, row, strict=True)
            if name not in absent  # if it is suggested after all, it is drawn then, given the others
        }

    def _not_suggested(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> frozenset[str]:
        """Shares that this trial will probably not suggest.

        At least :data:`~dropopt.study.blend.suggested.FEWEST_ALIKE` earlier trials had the same value of a categorical
        or integer parameter, and none of them suggested the share. If such a share were drawn with the others, they
        would sum to less than 1.
        """
        suggested = self._suggested_in(trials)
        if not suggested.missing:
            return frozenset()
        values = {**self._remembered(trial).sampled, **trial.params}
        absent: set[str] = set()
        for name, value in values.items():
            if not isinstance(value, float):
                absent |= suggested.never_with(name, value)
        return frozenset(absent)

    def _suggested_in(self, trials: Sequence[FrozenTrial]) -> Suggested:
        """What is known of the shares that ``trials`` suggested; kept, because only new trials need to be read."""
        with self._lock:
            if not self._suggested.add(trials):
                self._suggested = Suggested(self._flat)
                self._suggested.add(trials)
            return self._suggested

    def _fixed(self, trial: FrozenTrial) -> dict[str, float]:
        """Shares that are not drawn: enqueued, or fixed by the base."""
        fixed = {**self._fixed_by_base, **trial.system_attrs.get("fixed_params", {})}
        return {name: float(fixed[name]) for name in self._flat & fixed.keys()}

    def _covariates(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """The known other parameters of the trial, by column: suggested, enqueued, or sampled by the base."""
        values = {
            **self._remembered(trial).sampled,
            **trial.system_attrs.get("fixed_params", {}),
            **trial.params,
        }
        others = {name for name in values if name not in self._flat}
        distributions = {**_latest(trials, others), **trial.distributions}
        cells: dict[str, float] = {}
        for name in sorted(others & distributions.keys()):
            cells.update(cells_of(name, values[name], distributions[name]))
        return cells

    def _surrogate(self, study: Study, trials: Sequence[FrozenTrial]) -> tuple[Surrogate | None, int]:
        """The model of ``trials``, None while there are too few, and how many of them count.

        The latest trials are left out until their number reaches 1 / RENEWALS of all, so that several draws share
        a model.
        """
        count = len(trials) - len(trials) % max(1, len(trials) // RENEWALS)
        model, last = self._model, trials[count - 1] if count else None
        # Storages return trials by number. A further one among them would have moved the last one.
        if model.trials != count or model.last is not last:
            used, stages = trials[:count], len(self.names)
            table = evidence_of(study, self.names, prior=self._prior, limit=row_limit(stages), trials=used)
            surrogate = Surrogate(table) if len(table) >= STARTUP * stages else None
            self._model = model = _Model(surrogate, count, last, table.trials)
        return model.surrogate, model.count

    # -- small helpers

    def _remembered(self, trial: FrozenTrial) -> _Running:
        """What is remembered of a running trial. The oldest entry is removed if there are too many."""
        with self._lock:
            found = self._running.setdefault(trial._trial_id, _Running())
            while len(self._running) > REMEMBERED:
                self._running.popitem(last=False)
        return found

    @staticmethod
    def _stamp(study: Study, trial: FrozenTrial, evidence: int, *, randomised: bool, model: str) -> None:
        stamp = {"evidence": evidence, "randomised": randomised, "model": model}
        study._storage.set_trial_user_attr(trial._trial_id, STAMP, stamp)

    def _view(self, study: Study, trial: FrozenTrial) -> tuple[Any, FrozenTrial]:
        """The study and trial that the base sees."""
        return hide(study, trial, self._flat) if self._hides_blend else (study, trial)


def _latest(trials: Sequence[FrozenTrial], names: Iterable[str]) -> dict[str, BaseDistribution]:
    """The distribution of each name in the last trial that has it."""
    missing, found = set(names), {}
    for trial in reversed(trials):
        if not missing:
            break
        for name in missing & trial.distributions.keys():
            found[name] = trial.distributions[name]
            missing.discard(name)
    return found
