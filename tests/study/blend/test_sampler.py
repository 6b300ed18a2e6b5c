"""The efficacy sampler over different bases: it samples the blend, and the base samples all else."""

from __future__ import annotations

import inspect
import math
import pickle
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropopt.study.blend.learned import export_evidence
from dropopt.study.blend.names import BLEND
from dropopt.study.blend.sampler import FLOOR, STAMP, EfficacySampler

NAMES = ("w_a", "w_b", "w_c", "w_d")


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def blend_of(trial: optuna.Trial, names: tuple[str, ...] = NAMES) -> np.ndarray:
    raw = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
    return raw / raw.sum()


def objective(trial: optuna.Trial) -> float:
    """The best blend is w_b alone; the best x is 1."""
    x = trial.suggest_int("x", 0, 2)
    kind = trial.suggest_categorical("kind", ["p", "q"])
    noise = np.random.default_rng(trial.number).normal() * 0.02
    return float(1 - blend_of(trial)[1] + 0.1 * abs(x - 1) + 0.1 * (kind == "p") + noise)


def shares(trial: FrozenTrial, names: tuple[str, ...] = NAMES) -> np.ndarray:
    raw = np.array([trial.params[name] for name in names])
    return raw / raw.sum()


BASES: dict[str, Callable[[], BaseSampler]] = {
    "tpe": lambda: TPESampler(multivariate=True, constant_liar=True, seed=1),
    "tpe, independent": lambda: TPESampler(multivariate=False, seed=1),
    "tpe, grouped": lambda: TPESampler(multivariate=True, group=True, seed=1),
    "random": lambda: RandomSampler(seed=1),
    "qmc": lambda: optuna.samplers.QMCSampler(seed=1, warn_independent_sampling=False),
    "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=1, warn_independent_sampling=False),
    "gp": lambda: optuna.samplers.GPSampler(seed=1, n_startup_trials=12, warn_independent_sampling=False),
    "grid": lambda: optuna.samplers.GridSampler({"x": [0, 1, 2], "kind": ["p", "q"]}, seed=1),
    "brute force": lambda: optuna.samplers.BruteForceSampler(seed=1),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=1, population_size=4),
    "partly fixed": lambda: optuna.samplers.PartialFixedSampler({"x": 2}, TPESampler(seed=1)),
}


@pytest.mark.parametrize("name", BASES)
def test_wraps(name: str) -> None:
    """With any base, shares sum to 1 and none is 0; parameters that the base fixes or enumerates are respected."""
    study = optuna.create_study(sampler=EfficacySampler(BASES[name](), NAMES, seed=3))
    study.optimize(objective, n_trials=14)
    for trial in study.trials:
        values = [trial.params[n] for n in NAMES]
        assert sum(values) == pytest.approx(1.0)
        assert min(values) > 0
        assert set(trial.user_attrs[STAMP]) == {"evidence", "randomised", "model"}
    if name == "partly fixed":
        assert {trial.params["x"] for trial in study.trials} == {2}
    if name in ("grid", "brute force"):
        assert len({(t.params["x"], t.params["kind"]) for t in study.trials[:6]}) == 6
        assert len(study.trials) == 6 or name == "grid"


HOOKS = [name for name, member in inspect.getmembers(BaseSampler, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_delegated(hook: str) -> None:
    """Each public method of Optuna's BaseSampler is delegated to the base, including those that a release adds."""
    called = []
    base = RandomSampler(seed=0)
    result: Any = {} if hook in ("infer_relative_search_space", "sample_relative") else 0.5

    def spy(*args: Any, **kwargs: Any) -> Any:
        called.append(args)
        return result

    setattr(base, hook, spy)
    sampler = EfficacySampler(base, NAMES, seed=0)
    study = optuna.create_study(sampler=sampler)
    trial = create_trial(state=TrialState.RUNNING)
    given = {
        "study": study,
        "trial": trial,
        "search_space": {},
        "param_name": "x",
        "param_distribution": FloatDistribution(0, 1),
        "state": TrialState.COMPLETE,
        "values": [0.0],
    }
    wanted = [name for name in inspect.signature(getattr(BaseSampler, hook)).parameters if name != "self"]
    getattr(sampler, hook)(*(given[name] for name in wanted))
    assert len(called) == 1


def test_finds_an_optimum_at_a_vertex() -> None:
    """The sampler comes within 0.06 of an optimum at a vertex, in either direction."""
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(direction=direction, sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=0))
        study.optimize(lambda trial, sign=sign: sign * objective(trial), n_trials=35)
        assert max(shares(trial)[1] for trial in study.trials) > 0.94


def test_no_method_is_given_up() -> None:
    """A bad method keeps the floor in every draw, and a larger share in some of the randomised draws."""
    study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=1, randomised=0.2))
    study.optimize(lambda trial: 1 - blend_of(trial)[1], n_trials=70)
    late = np.array([shares(trial) for trial in study.trials[20:]])
    stamps = [trial.user_attrs[STAMP]["randomised"] for trial in study.trials[20:]]
    assert late.min() >= 0.98 * FLOOR
    assert 2 <= sum(stamps) <= 25
    assert (late[stamps].max(axis=0) > 0.1).all()
    assert np.median(late[:, 1]) > 0.9


def test_same_seed_same_study() -> None:
    """The same seed gives the same study, and another seed a different one."""

    def run(seed: int) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=EfficacySampler(TPESampler(seed=5), NAMES, seed=seed))
        study.optimize(objective, n_trials=13)
        return [trial.params for trial in study.trials]

    assert run(1) == run(1) != run(2)


def test_a_resumed_study_does_not_repeat_draws() -> None:
    """A new sampler with the same seed does not repeat the first draws of a resumed study."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name="s", sampler=EfficacySampler(RandomSampler(), NAMES, seed=7)
    )
    study.optimize(objective, n_trials=3)
    again = optuna.load_study(storage=storage, study_name="s", sampler=EfficacySampler(RandomSampler(), NAMES, seed=7))
    again.optimize(objective, n_trials=3)
    assert len({trial.params["w_a"] for trial in again.trials}) == 6


def test_draws_depend_on_storage_and_seed_alone() -> None:
    """A new sampler, a pickled one and one that sampled all trials make the same draws; another seed does not."""
    old = EfficacySampler(RandomSampler(seed=0), NAMES, seed=4)
    study = optuna.create_study(sampler=old)
    study.optimize(lambda trial: float(np.square(blend_of(trial) - 0.25).sum()), n_trials=20)

    def draws(sampler: BaseSampler) -> list[list[float]]:
        copy = optuna.create_study(sampler=sampler)
        copy.add_trials(study.trials)
        return [blend_of(copy.ask()).tolist() for _ in range(3)]

    new, other = (EfficacySampler(RandomSampler(seed=9), NAMES, seed=seed) for seed in (4, 5))
    assert draws(old) == draws(pickle.loads(pickle.dumps(old))) == draws(new) != draws(other)


def test_the_remembered_model_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sampler for 45 trials, which reuses models, makes the same draws as a new sampler for each trial."""
    monkeypatch.setattr("dropopt.study.blend.sampler.RENEWALS", 12)  # two trials share a model from the 24th on
    histories = []
    for lasting in (True, False):
        study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=4))
        for _ in range(45):
            if not lasting:
                study.sampler = EfficacySampler(RandomSampler(seed=0), NAMES, seed=4)
            trial = study.ask()
            study.tell(trial, 1 - blend_of(trial)[1])
        histories.append([trial.params for trial in study.trials])
    assert histories[0] == histories[1]


def test_conditional_names() -> None:
    """The sampler works if some trials suggest only part of the blend, or none of it."""
    study = optuna.create_study(sampler=EfficacySampler(TPESampler(seed=0, multivariate=True), NAMES, seed=0))

    def conditional(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("engine", ["none", "some", "all"]) == "none":
            return 1.0
        names = NAMES if trial.params["engine"] == "all" else NAMES[:3]
        return float(1 - blend_of(trial, names)[0])

    study.optimize(conditional, n_trials=40)
    assert study.best_value < 0.1
    assert all(STAMP not in t.user_attrs for t in study.trials if t.params["engine"] == "none")


@pytest.mark.parametrize("methods", [2, 3, 7])
def test_any_number_of_names(methods: int) -> None:
    """The sampler works with two, three and seven names."""
    names = tuple(f"n{i}" for i in range(methods))
    study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), names, seed=0))
    study.optimize(lambda trial: abs(blend_of(trial, names)[0] - 0.5), n_trials=25)
    assert study.best_value < 0.06


def test_stages() -> None:
    """With one blend for each stage, each lies on its own simplex, and each is learned."""
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES[:3], seed=0, stages=("early", "middle", "late"))
    assert sampler.names[2] == ("w_a_late", "w_b_late", "w_c_late")
    study = optuna.create_study(sampler=sampler)

    def staged(trial: optuna.Trial) -> float:
        early, middle, late = (blend_of(trial, names) for names in sampler.names)
        return float(3 - early[0] - middle[0] - late[2])

    study.optimize(staged, n_trials=45)
    assert study.best_value < 0.4
    same = EfficacySampler(RandomSampler(), sampler.names)
    assert same.names == sampler.names


def test_a_stage_that_is_enqueued_as_a_whole() -> None:
    """The shares of one stage are given, those of the other are drawn, and no warning is raised."""
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES[:2], seed=0, stages=("early", "late"))
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"w_a_early": 0.3, "w_b_early": 0.5})
    study.optimize(lambda trial: float(sum(blend_of(trial, stage)[0] for stage in sampler.names)), n_trials=1)
    params = study.trials[0].params
    assert (params["w_a_early"], params["w_b_early"]) == (0.3, 0.5)
    assert params["w_a_late"] + params["w_b_late"] == pytest.approx(1)


def test_degenerate_outcomes() -> None:
    """Identical values, infinities, failures and pruned trials do not prevent draws."""
    study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=0))

    def odd(trial: optuna.Trial) -> float:
        blend_of(trial)
        if trial.number % 5 == 1:
            raise optuna.TrialPruned
        if trial.number % 5 == 2:
            return math.nan
        return -math.inf if trial.number % 5 == 3 else 1.0

    study.optimize(odd, n_trials=30)
    assert len(study.trials) == 30


def test_workers_and_threads() -> None:
    """Threads that share a sampler get different blends, each of which sums to 1."""
    study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=0))
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len({trial.params["w_a"] for trial in study.trials[:8]}) == 8
    assert all(sum(t.params[n] for n in NAMES) == pytest.approx(1.0) for t in study.trials)


def test_a_prior_helps_and_is_overridden() -> None:
    """A prior from a similar study finds the optimum at once; one from an opposite study is overridden."""
    source = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES, seed=0))
    source.optimize(objective, n_trials=40)
    prior = export_evidence(source)
    like = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=1), NAMES, seed=1, prior=prior))
    like.optimize(objective, n_trials=6)
    assert np.median([shares(t)[1] for t in like.trials if not t.user_attrs[STAMP]["randomised"]]) > 0.8
    other = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=1), NAMES, seed=1, prior=prior))
    other.optimize(lambda trial: float(1 - blend_of(trial)[0]), n_trials=40)
    late = [shares(t)[0] for t in other.trials[25:] if not t.user_attrs[STAMP]["randomised"]]
    assert np.median(late) > 0.9


def history(count: int) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    unit = FloatDistribution(0, 1)
    others = [f"x{i}" for i in range(6)]
    found = []
    for _ in range(count):
        params = dict(zip(BLEND, rng.dirichlet(np.ones(5)).tolist(), strict=True))
        params |= dict(zip(others, rng.uniform(size=6).tolist(), strict=True))
        value = params[BLEND[0]] + rng.normal() * 0.1
        found.append(create_trial(params=params, distributions=dict.fromkeys(params, unit), value=value))
    return found


def test_ask_is_cheap() -> None:
    """At 1,000 trials, a draw takes less than 20 ms of processor time more than the base alone (best of several)."""
    trials = history(1000)

    def cost(sampler: BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler)
        study.add_trials(trials)
        best = math.inf
        for _ in range(6):
            start = time.process_time()
            trial = study.ask()
            for name in (*BLEND, *(f"x{i}" for i in range(6))):
                trial.suggest_float(name, 0, 1)
            best = min(best, time.process_time() - start)
            study.tell(trial, 0.5)
        return best

    assert cost(EfficacySampler(RandomSampler(seed=0), seed=0, randomised=1e-9)) - cost(RandomSampler(seed=0)) < 0.02


def test_one_sampler_for_two_studies() -> None:
    """Trials with the same id in different storages do not share a draw."""
    sampler = EfficacySampler(RandomSampler(seed=0), NAMES)
    first, second = (optuna.create_study(sampler=sampler).ask() for _ in range(2))
    drawn = [trial.suggest_float("w_a", 0, 1) for trial in (first, second)]
    assert drawn[0] != optuna.create_study(sampler=sampler).ask().suggest_float("w_a", 0, 1) != drawn[1]


def test_optimum_that_depends_on_another_parameter() -> None:
    """If the best blend depends on a parameter of the base, draws follow that parameter."""
    study = optuna.create_study(sampler=EfficacySampler(RandomSampler(seed=0), NAMES[:2], seed=0))

    def moving(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.1, 0.9)
        return float((blend_of(trial, NAMES[:2])[0] - x) ** 2)

    study.optimize(moving, n_trials=50)
    late = [trial for trial in study.trials[25:] if not trial.user_attrs[STAMP]["randomised"]]
    x, share = (np.array([t.params[name] for t in late]) for name in ("x", "w_a"))
    assert np.corrcoef(x, share)[0, 1] > 0.6
