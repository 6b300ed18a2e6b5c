"""EfficacySampler: an Optuna sampler that wraps any other and proposes the blend of methods itself.

The wrapped sampler proposes everything else. What is known of the blend is recomputed from the finished trials in
storage at every draw, so any number of workers and any restart agree; only a draw's randomness is a trial's own.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, PartialFixedSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import METHODS, ConfigError
from dropopt.study.blend.effects import Names
from dropopt.study.blend.evidence import gather, imported, row
from dropopt.study.blend.simplex import Simplex, external, numeric, project
from dropopt.study.blend.surrogate import Surrogate, climb, design, most_rows

#: The blend of eq. (15).
BLEND = tuple(f"w_{method}" for method in METHODS)
#: The user attribute that says what a trial was drawn from.
STAMP = "efficacy"
#: Share of draws that ignore the evidence, once there is plenty: no method is ever given up.
RANDOMISED = 0.1
#: No method's share of a draw falls below it.
FLOOR = 0.001
#: Trials before the first model, for each stage.
STARTUP = 8
#: Blends of the best trials from which a draw is climbed.
INCUMBENTS = 6
#: Trials whose draw or base proposal is remembered until they end.
REMEMBERED = 512
#: A model is of all trials but the last few that are less than one in this many, so that several draws share it.
RENEWALS = 50
#: Trials with the same choice that show what is not asked for after it.
FEWEST_ALIKE = 2

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_MISSING = object()

#: The last model, of which trials, and how many of them count.
_Model = tuple[list[FrozenTrial], Surrogate | None, int]


def blend_names(blend: Sequence[str] | Sequence[Sequence[str]], stages: Sequence[str] | None = None) -> Names:
    """One tuple of names per stage: ``blend`` is names, or names for each stage; ``stages`` are suffixes."""
    groups: list[Sequence[str]]
    if all(isinstance(name, str) for name in blend):
        flat = [str(name) for name in blend]
        groups = [[f"{name}_{stage}" for name in flat] for stage in stages] if stages else [flat]
    else:
        groups = [[str(name) for name in group] for group in blend]
    names = tuple(tuple(group) for group in groups)
    flat = [name for group in names for name in group]
    if not names or len({len(group) for group in names}) != 1 or len(names[0]) < 2 or len(set(flat)) != len(flat):
        raise ConfigError(f"blend must be two or more different names, as many in each stage, got {blend!r}")
    return names


class EfficacySampler(BaseSampler):
    """Proposes the shares named in ``blend`` by Thompson sampling, and leaves the rest to ``base``.

    ``blend`` is a sequence of names, each suggested as a number in [0, 1], or one sequence per stage of training;
    ``stages`` appends ``_early`` and so on to the names instead. ``prior`` is what ``export_evidence`` gave.
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
            imported(prior, self.names)  # a fault shows here, not in a trial
        self._base = base if base is not None else TPESampler(multivariate=True, constant_liar=True, seed=seed)
        self._seed, self._prior, self._floor, self._randomised = seed, prior, floor, randomised
        self._flat = frozenset(name for stage in self.names for name in stage)
        self._fixed_by_base = _fixed_params(self._base)
        self._blind = any(isinstance(sampler, BruteForceSampler) for sampler in _chain(self._base))
        self._lock = threading.Lock()
        self._proposed: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._drawn: OrderedDict[int, dict[str, float]] = OrderedDict()
        self._model: _Model = ([], None, 0)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._base})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_model")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._model = threading.Lock(), ([], None, 0)

    # -- the hooks of an Optuna sampler

    def reseed_rng(self) -> None:
        """Delegated: a blend's randomness comes from the seed and the trial's number."""
        self._base.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Delegated; nothing is left of another study's trial of the same id."""
        self._proposed.pop(trial._trial_id, None)
        self._drawn.pop(trial._trial_id, None)
        self._base.before_trial(*self._view(study, trial))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The base's."""
        return self._base.infer_relative_search_space(*self._view(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The base's; remembered, so that the blend can be drawn for it."""
        params = self._base.sample_relative(*self._view(study, trial), search_space)
        params = {name: value for name, value in params.items() if name not in self._flat}
        self._remember(self._proposed, trial._trial_id, params)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A share of this trial's one joint draw; what is not of the blend is the base's."""
        if param_name not in self._flat or not numeric(param_distribution):
            view = self._view(study, trial)
            return self._base.sample_independent(*view, param_name, param_distribution)
        if study._is_multi_objective():
            raise ConfigError("EfficacySampler serves one objective, got a study with several")
        if param_name in self._fixed_by_base:
            return self._fixed_by_base[param_name]
        given = {name: float(value) for name, value in trial.params.items() if name in self._flat}
        drawn = self._drawn.get(trial._trial_id)
        if drawn is None or param_name not in drawn or any(drawn.get(k) != v for k, v in given.items()):
            drawn = self._draw(study, trial, {param_name: param_distribution}, given)
        value = project(np.array([drawn[param_name]]), param_distribution)[0]
        self._remember(self._drawn, trial._trial_id, {**drawn, param_name: float(value)})
        return external(float(value), param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Delegated; a blend that was given, not drawn, is stamped as such."""
        self._proposed.pop(trial._trial_id, None)
        self._drawn.pop(trial._trial_id, None)
        if STAMP not in trial.user_attrs and not self._flat.isdisjoint(trial.params):
            stamp = {"evidence": 0, "randomised": False, "model": "given"}
            study._storage.set_trial_user_attr(trial._trial_id, STAMP, stamp)
        self._base.after_trial(*self._view(study, trial), state, values)

    # -- drawing

    def _draw(
        self, study: Study, trial: FrozenTrial, known: dict[str, BaseDistribution], given: dict[str, float]
    ) -> dict[str, float]:
        """One joint draw of all names, those in ``given`` held."""
        trials = study._get_trials(deepcopy=False, states=_FINISHED, use_cache=True)
        distributions = {**_latest(trials, self._flat), **trial.distributions, **known}
        absent = self._absent(trial, trials) - known.keys() - given.keys()
        held = {**dict.fromkeys(absent, 0.0), **self._held(trial), **given}
        simplex = Simplex(self.names, distributions, held, self._floor)
        rng = np.random.default_rng(None if self._seed is None else [self._seed, trial.number, len(given)])
        surrogate, count = self._surrogate(study, trials)
        if surrogate is None or rng.uniform() < self._randomised:
            values = [simplex.values(design(rng, len(stage))[None], s)[0] for s, stage in enumerate(self.names)]
            stamp = {"evidence": count, "randomised": True, "model": "uniform"}
        else:
            path, model = surrogate.draw(rng, surrogate.standardise(self._covariates(trial, trials)))
            stages = len(self.names)
            values = [
                climb(path, s, surrogate.best(s, INCUMBENTS), simplex.values, rng, stages=stages) for s in range(stages)
            ]
            stamp = {"evidence": count, "randomised": False, "model": model}
        if STAMP not in trial.user_attrs:
            study._storage.set_trial_user_attr(trial._trial_id, STAMP, stamp)
        return {
            name: float(value)
            for stage, shares in zip(self.names, values, strict=True)
            for name, value in zip(stage, shares, strict=True)
            if name not in absent  # asked for all the same, it gets a draw that keeps what was given
        }

    def _absent(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> frozenset[str]:
        """Conditional shares that this trial will hardly ask for: two or more with one of its choices, and none did.

        Drawn with the rest they would take a share of 1 that nobody gets.
        """
        if all(trial.params.keys() >= self._flat for trial in trials):
            return frozenset()
        values = {**self._proposed.get(trial._trial_id, {}), **trial.params}
        absent: set[str] = set()
        for name, value in values.items():
            if isinstance(value, float):
                continue
            alike = [other.params for other in trials if other.params.get(name, _MISSING) == value]
            if len(alike) >= FEWEST_ALIKE:
                absent |= self._flat.difference(*alike)
        return frozenset(absent)

    def _surrogate(self, study: Study, trials: Sequence[FrozenTrial]) -> tuple[Surrogate | None, int]:
        """The model of ``trials``, None while they are too few, and how many of them count.

        It is a function of them alone: remembering the last one saves time and changes nothing.
        """
        ordered = sorted(trials, key=attrgetter("number"))
        settled = ordered[: len(ordered) - len(ordered) % max(1, len(ordered) // RENEWALS)]
        known, model, count = self._model
        if len(known) != len(settled) or not all(map(is_, known, settled)):
            maximise = study.direction == StudyDirection.MAXIMIZE
            table = gather(settled, self.names, maximise=maximise, prior=self._prior, limit=most_rows(len(self.names)))
            model, count = Surrogate(table) if len(table) >= STARTUP * len(self.names) else None, table.trials
            self._model = (settled, model, count)
        return model, count

    def _held(self, trial: FrozenTrial) -> dict[str, float]:
        """Shares that are not ours to draw: enqueued, or fixed by the base."""
        held = {**self._fixed_by_base, **trial.system_attrs.get("fixed_params", {})}
        return {name: float(held[name]) for name in self._flat & held.keys()}

    def _covariates(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """What is known of the trial's other parameters: suggested already, enqueued, or proposed by the base."""
        values = {
            **self._proposed.get(trial._trial_id, {}),
            **trial.system_attrs.get("fixed_params", {}),
            **trial.params,
        }
        others = {name for name in values if name not in self._flat}
        distributions = {**_latest(trials, others), **trial.distributions}
        cells: dict[str, float] = {}
        for name in sorted(others & distributions.keys()):
            cells.update(row(name, values[name], distributions[name]))
        return cells

    def _remember(self, memory: OrderedDict[int, dict[str, Any]], trial_id: int, values: dict[str, Any]) -> None:
        with self._lock:
            memory[trial_id] = values
            while len(memory) > REMEMBERED:
                memory.popitem(last=False)

    def _view(self, study: Study, trial: FrozenTrial) -> tuple[Any, FrozenTrial]:
        """What the base sees: all, unless it enumerates trials, when a continuous blend would be in its way."""
        return (_Blind(study, self._flat), _without(trial, self._flat)) if self._blind else (study, trial)


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


def _chain(sampler: Any) -> Iterable[Any]:
    """A sampler and those that it wraps, in Optuna's own wrappers."""
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "_base_sampler", None)


def _fixed_params(base: BaseSampler) -> dict[str, Any]:
    fixed: dict[str, Any] = {}
    for sampler in _chain(base):
        if isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
    return fixed


def _without(trial: FrozenTrial, names: frozenset[str]) -> FrozenTrial:
    """A copy of ``trial`` that never heard of ``names``."""
    blind = copy.copy(trial)
    blind._params = {name: value for name, value in trial.params.items() if name not in names}
    blind._distributions = {name: d for name, d in trial.distributions.items() if name not in names}
    return blind


class _Blind:
    """A study or storage whose trials never heard of some names."""

    def __init__(self, target: Any, names: frozenset[str]) -> None:
        self._target, self._names = target, names

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name == "_storage":
            return _Blind(value, self._names)
        if name in ("get_trials", "_get_trials", "get_all_trials"):
            return lambda *a, **k: [_without(trial, self._names) for trial in value(*a, **k)]
        return value
