"""Draws of the sampler, restated from their parts: the table, the model, the climb and the simplex."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropopt.config import ConfigError
from dropopt.study.blend import sampler as module
from dropopt.study.blend.climb import climb, random_blend
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import export_evidence
from dropopt.study.blend.names import BLEND
from dropopt.study.blend.sampler import STAMP, EfficacySampler
from dropopt.study.blend.simplex import Simplex
from dropopt.study.blend.surrogate import Surrogate
from dropopt.study.blend.wrapped import enumerates, fixed_params, hide

NAMES = (("w_a", "w_b", "w_c"),)
UNIT, COUNT = FloatDistribution(0, 1), IntDistribution(0, 9)
KINDS = CategoricalDistribution(["p", "q"])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def history(count: int, names: Sequence[Sequence[str]] = NAMES, seed: int = 0) -> list[FrozenTrial]:
    """Trials whose value depends on the first method and on x, with a count and a kind as other parameters."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        params: dict[str, Any] = {}
        for stage in names:
            params |= dict(zip(stage, rng.dirichlet(np.ones(len(stage))).tolist(), strict=True))
        distributions: dict[str, BaseDistribution] = dict.fromkeys(params, UNIT)
        params |= {"x": float(rng.uniform()), "n": int(rng.integers(10)), "kind": str(rng.choice(["p", "q"]))}
        distributions |= {"x": UNIT, "n": COUNT, "kind": KINDS}
        value = float(abs(params[names[0][0]] - params["x"]) + rng.normal() * 0.1)
        found.append(create_trial(params=params, distributions=distributions, value=value))
        found[-1].number = len(found) - 1
    return found


def study_of(sampler: EfficacySampler, trials: Sequence[FrozenTrial], direction: str = "minimize") -> Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.add_trials(trials)
    return study


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("count", [30, 107])
def test_a_draw_by_hand(direction: str, stages: int, count: int) -> None:
    """A draw is the climb of a path of the model of earlier trials, given the trial's other parameters.

    From 100 trials on, models are shared: with 107 trials, the last is left out.
    """
    names = NAMES if stages == 1 else (NAMES[0], ("w_d", "w_e", "w_f"))
    trials = history(count, names)
    sampler = EfficacySampler(RandomSampler(seed=0), names, seed=5, randomised=1e-9, floor=0.01)
    study = study_of(sampler, trials, direction)
    trial = study.ask()
    x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 0, 9)
    drawn = [[trial.suggest_float(name, 0, 1) for name in stage] for stage in names]

    used = study.trials[: count - count % max(1, count // 50)]
    assert len(used) == (30 if count == 30 else 106)
    table = gather(used, names, maximise=direction == "maximize", limit=100 if stages == 1 else 84)
    model, rng = Surrogate(table), np.random.default_rng([5, count, 0])
    assert not rng.uniform() < 1e-9
    path, kind = model.draw(rng, table.standardise({"x": x, "n": float(n)}))
    simplex = Simplex(names, {}, {}, 0.01)
    for stage in range(stages):
        best = climb(path, stage, model.best(stage, 6), simplex.values, rng, stages=stages)
        assert drawn[stage] == pytest.approx(best.tolist(), abs=1e-12)
    assert study.trials[-1].user_attrs[STAMP] == {"evidence": len(used), "randomised": False, "model": kind}


def test_a_randomised_draw_by_hand() -> None:
    """A draw that ignores the evidence is a random blend on the legal simplex; its seed counts given shares."""
    trials = history(12)
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES, seed=5, randomised=1.0, floor=0.1)
    study = study_of(sampler, trials)
    study.enqueue_trial({"w_b": 0.4})
    trial = study.ask()
    first, second = trial.suggest_float("w_b", 0, 1), trial.suggest_float("w_c", 0, 1)
    rng = np.random.default_rng([5, 12, 1])
    rng.uniform()
    expected = Simplex(NAMES, {}, {"w_b": 0.4}, 0.1).values(random_blend(rng, 3)[None], 0)[0]
    assert (first, second) == (0.4, pytest.approx(expected[2]))
    assert trial.suggest_float("w_a", 0, 1) == pytest.approx(expected[0])
    assert study.trials[-1].user_attrs[STAMP] == {"evidence": 12, "randomised": True, "model": "uniform"}


def test_an_enqueued_share_counts_before_it_is_suggested() -> None:
    """The others leave room for it."""
    study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=5), history(12))
    study.enqueue_trial({"w_b": 0.7})
    trial = study.ask()
    first, second, third = (trial.suggest_float(name, 0, 1) for name in ("w_a", "w_c", "w_b"))
    assert (third, first + second) == (0.7, pytest.approx(0.3))


def test_the_fraction_of_randomised_draws() -> None:
    """One draw in ten ignores the evidence unless another fraction is given, from eight trials for each stage on."""
    trials = history(20)
    for given, fraction in ({}, 0.1), ({"randomised": 0.5}, 0.5):
        study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=0, **given), trials)
        for _ in range(30):
            study.ask().suggest_float("w_a", 0, 1)
        stamps = [trial.user_attrs[STAMP]["randomised"] for trial in study.trials[20:]]
        expected = [np.random.default_rng([0, number, 0]).uniform() < fraction for number in range(20, 50)]
        assert stamps == expected
        assert 0 < sum(stamps) < 30
    for names in (NAMES, (*NAMES, ("w_d", "w_e", "w_f"))):
        for count, model in ((8 * len(names) - 1, False), (8 * len(names), True)):
            study = study_of(EfficacySampler(RandomSampler(), names, seed=0, randomised=1e-9), history(count, names))
            trial = study.ask()
            trial.suggest_float("w_a", 0, 1)
            stamp = study.trials[-1].user_attrs[STAMP]
            assert (stamp["randomised"], stamp["evidence"]) == (not model, count)


class Recorder(Surrogate):
    """A model that records the covariates for which functions are drawn."""

    given: list[np.ndarray] = []  # noqa: RUF012

    def draw(self, rng: np.random.Generator, covariates: np.ndarray | None) -> Any:
        """Draw as usual."""
        assert covariates is not None
        self.given.append(covariates)
        return super().draw(rng, covariates)


class Relative(RandomSampler):
    """A base that samples x and one share of the blend jointly, before the trial asks for them."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Two parameters."""
        return {"x": UNIT, "w_c": UNIT}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Constants."""
        assert search_space.keys() == {"x", "w_c"}
        return {"x": 0.125, "w_c": 0.77}


def test_known_parameters_are_covariates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw is given what the base sampled, what is enqueued and what was suggested, the latter before the former."""
    monkeypatch.setattr(module, "Surrogate", Recorder)
    trials = history(20)
    table = gather(trials, NAMES, maximise=False)

    def given(base: RandomSampler, enqueued: dict[str, Any], *suggested: str) -> np.ndarray:
        study = study_of(EfficacySampler(base, NAMES, seed=0, randomised=1e-9), trials)
        study.enqueue_trial(enqueued)
        trial = study.ask()
        for name in suggested:
            trial._suggest(name, {"x": UNIT, "n": COUNT, "kind": KINDS}[name])
        share = trial.suggest_float("w_c", 0, 1)
        assert share != 0.77
        return Recorder.given[-1]

    low, relative = RandomSampler(seed=0), Relative(seed=0)
    assert given(low, {}) == pytest.approx(table.standardise({}))
    assert given(relative, {}) == pytest.approx(table.standardise({"x": 0.125}))
    assert given(low, {"n": 7}) == pytest.approx(table.standardise({"n": 7.0}))
    assert given(relative, {"x": 0.5}) == pytest.approx(table.standardise({"x": 0.5}))
    kind = table.standardise({"x": 0.25, "kind='p'": 0.0, "kind='q'": 1.0})
    assert given(low, {"kind": "q", "x": 0.25}, "x") == pytest.approx(kind)
    assert given(low, {"other": 1.0, "n": 3}, "n") == pytest.approx(table.standardise({"n": 3.0}))


def test_shares_keep_the_distributions_of_earlier_trials() -> None:
    """Before all shares are suggested, the ranges of the others are those of the last trial that had them."""
    trials = history(9)
    for trial, high in ((trials[3], 0.9), (trials[7], 0.05)):
        trial.distributions = {**trial.distributions, "w_b": FloatDistribution(0, high)}
        trial.params = {**trial.params, "w_b": min(trial.params["w_b"], high)}
    trials[8].distributions = {n: d for n, d in trials[8].distributions.items() if n != "w_b"}
    trials[8].params = {n: v for n, v in trials[8].params.items() if n != "w_b"}
    study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=3, randomised=1.0), trials)
    trial = study.ask()
    rng = np.random.default_rng([3, 9, 0])
    rng.uniform()
    distributions = {"w_b": FloatDistribution(0, 0.05), "w_a": FloatDistribution(0.2, 0.7)}
    expected = Simplex(NAMES, distributions, {}, 0.001).values(random_blend(rng, 3)[None], 0)[0]
    assert trial.suggest_float("w_a", 0.2, 0.7) == pytest.approx(expected[0])
    assert trial.suggest_float("w_c", 0, 1) == pytest.approx(expected[2])


def test_the_shares_of_a_trial_come_from_one_draw() -> None:
    """A share outside its range is moved to it, and the draw is kept; it is repeated if a share has another value."""
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES, seed=3, randomised=1.0)
    study = study_of(sampler, [])
    trial = study.ask()
    drawn = [trial.suggest_float("w_a", 0, 1), trial.suggest_float("w_b", 0, 0.01), trial.suggest_float("w_c", 0, 1)]
    rng = np.random.default_rng([3, 0, 0])
    joint = Simplex(NAMES, {}, {}, 0.001).values(random_blend(rng, 3)[None], 0)[0]
    assert drawn == pytest.approx([joint[0], 0.01, joint[2]])
    assert joint[1] > 0.01

    changed = study.trials[-1]
    changed.params = {"w_b": 0.9}
    rng = np.random.default_rng([3, 0, 1])
    distributions = {"w_b": FloatDistribution(0, 0.01)}
    again = Simplex(NAMES, distributions, {"w_b": 0.9}, 0.001).values(random_blend(rng, 3)[None], 0)[0]
    assert sampler.sample_independent(study, changed, "w_a", UNIT) == pytest.approx(again[0])
    assert sampler.sample_independent(study, changed, "w_c", UNIT) == pytest.approx(again[2])


@pytest.mark.parametrize(("alike", "expected"), [(1, False), (2, True)])
@pytest.mark.parametrize("value", [3, "p"])
def test_shares_that_are_not_suggested(alike: int, expected: bool, value: Any) -> None:
    """Two earlier trials with the same count or kind and without a share show that it will not be suggested."""
    name = "n" if isinstance(value, int) else "kind"
    others = history(9)
    for trial in others:
        other = {"n": 5, "kind": "q", "x": 0.5}
        trial.params = {**trial.params, **other}
    short = [copy.deepcopy(trial) for trial in others[:alike]]
    for trial in short:
        trial.params = {k: v for k, v in {**trial.params, name: value}.items() if k != "w_c"}
        trial.distributions = {k: v for k, v in trial.distributions.items() if k != "w_c"}
    study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=1, randomised=1.0), [*others, *short])
    trial = study.ask(fixed_distributions=None)
    trial.storage.set_trial_param(trial._trial_id, name, {"n": COUNT, "kind": KINDS}[name].to_internal_repr(value),
                                  {"n": COUNT, "kind": KINDS}[name])  # fmt: skip
    trial._cached_frozen_trial = study._storage.get_trial(trial._trial_id)
    total = trial.suggest_float("w_a", 0, 1) + trial.suggest_float("w_b", 0, 1)
    assert (total == pytest.approx(1)) is expected
    late = trial.suggest_float("w_c", 0, 1)  # suggested after all
    assert 0 < late < 1


def test_each_parameter_may_show_a_share_that_is_not_suggested() -> None:
    """One share is not suggested with the kind of the trial, another one not with its count: the last one is all."""
    trials = history(8)
    for index, (other, share) in enumerate([({"kind": "p"}, "w_b")] * 4 + [({"n": 3}, "w_c")] * 4):
        one = trials[index]
        one.params = {n: v for n, v in {**one.params, "kind": "q", "n": 5, **other}.items() if n != share}
        one.distributions = {n: d for n, d in one.distributions.items() if n != share}
    for names in (("kind", "n"), ("n", "kind")):
        study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=1, randomised=1.0), trials)
        study.enqueue_trial({"kind": "p", "n": 3})
        trial = study.ask()
        for name in names:
            trial._suggest(name, {"n": COUNT, "kind": KINDS}[name])
        assert trial.suggest_float("w_a", 0, 1) == pytest.approx(1)


def test_floats_do_not_show_which_shares_are_suggested() -> None:
    """Equal floats are a coincidence or a constant, and trials with them say nothing about the share."""
    trials = history(6)
    for trial in trials:
        trial.params = {n: (0.5 if n == "x" else v) for n, v in trial.params.items() if n != "w_c"}
        trial.distributions = {n: d for n, d in trial.distributions.items() if n != "w_c"}
    study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=1, randomised=1.0), trials)
    study.enqueue_trial({"x": 0.5})
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    assert trial.suggest_float("w_a", 0, 1) + trial.suggest_float("w_b", 0, 1) < 0.9999


def test_the_given_blend_is_stamped() -> None:
    """A trial with shares that were not drawn is stamped at its end, and only such a trial."""
    study = study_of(EfficacySampler(RandomSampler(seed=0), NAMES, seed=1), [])
    study.enqueue_trial({"w_a": 0.3})
    study.enqueue_trial({"x": 0.3})
    study.optimize(lambda trial: trial.suggest_float("w_a" if trial.number == 0 else "x", 0, 1), n_trials=2)
    given, none = (trial.user_attrs for trial in study.trials)
    assert given == {STAMP: {"evidence": 0, "randomised": False, "model": "given"}}
    assert none == {}
    study.optimize(lambda trial: trial.suggest_float("w_a", 0, 1), n_trials=1)
    assert study.trials[2].user_attrs[STAMP]["model"] == "uniform"
    assert study.sampler._running == {}


def test_the_default_base_and_blend() -> None:
    """The default base is a multivariate TPE with constant_liar and the sampler's seed; the blend is the engine's."""
    sampler = EfficacySampler(seed=11)
    base: Any = sampler._base
    assert sampler.names == (BLEND,)
    assert type(base) is TPESampler
    assert (base._multivariate, base._constant_liar) == (True, True)
    assert base._rng.rng.random() == TPESampler(seed=11)._rng.rng.random()
    assert str(EfficacySampler(RandomSampler())) == f"EfficacySampler({RandomSampler()})"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"floor": 0.0}, None),
        ({"floor": 0.332}, None),
        ({"floor": 1 / 3}, "floor must be in [0, 0.333333), got 0.3333333333333333"),
        ({"floor": -0.001}, "floor must be in [0, 0.333333), got -0.001"),
        ({"randomised": 1.0}, None),
        ({"randomised": 1.01}, "randomised must be in (0, 1], got 1.01"),
        ({"randomised": 0}, "randomised must be in (0, 1], got 0"),
        ({"blend": ["w"]}, "blend must be two or more different names, the same number in each stage, got ['w']"),
        (
            {"prior": {"names": [["q", "r"]], "columns": [], "rows": []}},
            "the prior is about q, r, but this study searches w_a, w_b, w_c",
        ),
    ],
)
def test_arguments_at_their_limits(given: dict[str, Any], message: str | None) -> None:
    """Both ends of each range, and what the error says beyond them and about other wrong arguments."""
    options = {"blend": NAMES} | given
    if message is None:
        EfficacySampler(RandomSampler(), **options)
        return
    with pytest.raises(ConfigError) as error:
        EfficacySampler(RandomSampler(), **options)
    assert str(error.value) == message


def test_a_sampler_without_a_seed() -> None:
    """Without a seed, two samplers draw different blends of the same trial."""
    drawn = {study_of(EfficacySampler(RandomSampler(), NAMES), []).ask().suggest_float("w_a", 0, 1) for _ in range(3)}
    assert len(drawn) == 3


def test_a_prior_enters_the_model() -> None:
    """With 10 rows of a prior and no trial, draws already come from a model."""
    prior = export_evidence(study_of(EfficacySampler(RandomSampler(), NAMES), history(10)), NAMES)
    study = study_of(EfficacySampler(RandomSampler(), NAMES, seed=0, prior=prior, randomised=1e-9), [])
    study.ask().suggest_float("w_a", 0, 1)
    stamp = study.trials[-1].user_attrs[STAMP]
    assert (stamp["evidence"], stamp["randomised"]) == (0, False)


def test_trials_that_never_end_are_forgotten() -> None:
    """At most 512 running trials are remembered, the latest; an entry of an earlier study is dropped."""
    sampler = EfficacySampler(RandomSampler(), NAMES, seed=0)
    study = study_of(sampler, [])
    ids = []
    for _ in range(514):
        asked = study.ask()
        asked.suggest_float("w_a", 0, 1)
        ids.append(asked._trial_id)
    assert list(sampler._running) == ids[2:]
    trial = study.trials[-1]
    sampler._running[trial._trial_id].blend = {"w_a": 0.9}
    sampler.before_trial(study, trial)
    assert trial._trial_id not in sampler._running
    again = pickle.loads(pickle.dumps(sampler))
    assert list(again._running) == list(sampler._running)
    assert again._model == module._Model()


class Listed(list[FrozenTrial]):
    """Trials that cannot be gone through, only looked up."""

    def __iter__(self) -> Iterator[FrozenTrial]:
        """Fail."""
        raise AssertionError("a draw goes through all trials")


def test_a_draw_goes_through_no_trials_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the model of an earlier draw counts, although one more trial has finished among the others."""
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES, seed=0)
    study = study_of(sampler, history(299))
    late, asked = study.ask(), study.ask()
    asked.suggest_float("w_a", 0, 1)
    study.tell(asked, 0.1)
    study.ask().suggest_float("w_a", 0, 1)
    model = sampler._model
    late.suggest_float("w_a", 0, 1)
    study.tell(late, 0.2)
    trials = Study._get_trials
    monkeypatch.setattr(Study, "_get_trials", lambda self, *args, **kwargs: Listed(trials(self, *args, **kwargs)))
    study.ask().suggest_float("w_a", 0, 1)
    assert sampler._model.trials == model.trials == 300
    assert sampler._model is not model, "the late trial is one of the first 300"
    model = sampler._model
    study.ask().suggest_float("w_a", 0, 1)
    assert sampler._model is model


class Blind(BruteForceSampler):
    """An enumerating base that records what it sees."""

    seen: list[tuple[set[str], set[str]]] = []  # noqa: RUF012

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Record the names of a finished trial, three times, and of the running one."""
        storage = study._storage.get_all_trials(study._study_id, deepcopy=False)
        for trials in (study.get_trials(deepcopy=False), study._get_trials(deepcopy=False), storage):
            done = next(one for one in trials if one.state == TrialState.COMPLETE)
            Blind.seen.append((set(done.params), set(done.distributions)))
        Blind.seen.append((set(trial.params), set(trial.distributions)))
        assert study.direction.name == "MINIMIZE"
        return super().sample_independent(study, trial, name, distribution)


def test_an_enumerating_base_does_not_see_the_blend() -> None:
    """A brute-force sampler, also one inside another sampler, sees trials without the shares."""
    Blind.seen.clear()
    base = PartialFixedSampler({"k": 1}, Blind(seed=0))
    assert enumerates(base)
    assert not enumerates(RandomSampler())
    params = {"w_a": 0.5, "n": 3, "k": 0}
    done = create_trial(value=1.0, params=params, distributions={"w_a": UNIT, "n": COUNT, "k": IntDistribution(0, 1)})
    study = study_of(EfficacySampler(base, NAMES, seed=0), [done])

    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("w_a", 0, 1) + trial.suggest_int("n", 0, 9) + trial.suggest_int("k", 0, 1)

    study.optimize(objective, n_trials=1)
    others = {"n", "k"}
    assert Blind.seen[:4] == [(others, others)] * 3 + [(set(), set())]
    assert {"w_a", "n", "k"} == set(study.trials[-1].params)  # the trial itself is not changed
    _, reduced = hide(study, study.trials[-1], frozenset({"w_a"}))
    assert set(reduced.params) == set(reduced.distributions) == {"n", "k"}


def test_any_other_base_sees_the_blend() -> None:
    """A base that models parameters jointly can learn how the others depend on the shares."""
    seen = []

    class Seeing(RandomSampler):
        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
            seen.append(set(study.get_trials(deepcopy=False)[0].params))
            return super().sample_relative(study, trial, search_space)

    done = create_trial(value=1.0, params={"w_a": 0.5, "n": 3}, distributions={"w_a": UNIT, "n": COUNT})
    study_of(EfficacySampler(Seeing(seed=0), NAMES, seed=0), [done]).ask().suggest_int("n", 0, 9)
    assert seen == [{"w_a", "n"}]


def test_fixed_shares_of_nested_bases() -> None:
    """What the outer of two samplers fixes takes precedence; a fixed share is suggested and is not drawn."""
    inner = PartialFixedSampler({"w_a": 0.1, "w_b": 0.2}, RandomSampler(seed=0))
    base = PartialFixedSampler({"w_a": 0.3}, inner)
    assert fixed_params(base) == {"w_a": 0.3, "w_b": 0.2}
    assert fixed_params(RandomSampler()) == {}
    study = study_of(EfficacySampler(base, NAMES, seed=0), [])
    trial = study.ask()
    assert trial.suggest_float("w_c", 0, 1) == pytest.approx(0.5)
    assert (trial.suggest_float("w_a", 0, 1), trial.suggest_float("w_b", 0, 1)) == (0.3, 0.2)


def test_a_share_that_is_not_a_number_is_left_to_the_base() -> None:
    """A weight with choices of text is sampled by the base, and several objectives are refused in one sentence."""
    study = study_of(EfficacySampler(PartialFixedSampler({"w_a": "no"}, RandomSampler()), NAMES, seed=0), [])
    assert study.ask().suggest_categorical("w_a", ["yes", "no"]) == "no"
    several = optuna.create_study(directions=["minimize"] * 2, sampler=EfficacySampler(RandomSampler(), NAMES))
    with pytest.raises(ConfigError, match=r"^EfficacySampler supports one objective, got a study with several$"):
        several.ask().suggest_float("w_a", 0, 1)
