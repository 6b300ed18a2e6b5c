"""The efficacy sampler over different bases, with Optuna's own tests of samplers at the end."""

import inspect
import math
import pickle
import time

import numpy as np
import optuna
import pytest
from optuna import samplers
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from dropopt.study.blend.learned import export_evidence
from dropopt.study.blend.names import BLEND
from dropopt.study.blend.sampler import FLOOR, STAMP, EfficacySampler

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
NAMES = ("w_a", "w_b", "w_c", "w_d")


def blend_of(trial, names=NAMES):
    """The shares that a running trial is given."""
    raw = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
    return raw / raw.sum()


def objective(trial):
    """The best blend is w_b alone; the best level is 1."""
    level = trial.suggest_int("level", 0, 2)
    kind = trial.suggest_categorical("kind", ["p", "q"])
    noise = np.random.default_rng(trial.number).normal() * 0.02
    return float(1 - blend_of(trial)[1] + 0.1 * abs(level - 1) + 0.1 * (kind == "p") + noise)


def study_of(base=None, names=NAMES, *, storage=None, **options):
    """An empty study; the seed of its sampler is 0 unless ``options`` have another."""
    sampler = EfficacySampler(base or RandomSampler(seed=0), names, **{"seed": 0} | options)
    return optuna.create_study(sampler=sampler, storage=storage, study_name="s", load_if_exists=True)


def searched(function, n_trials, base=None, names=NAMES, **options):
    """The study after its trials."""
    study = study_of(base, names, **options)
    study.optimize(function, n_trials=n_trials)
    return study


QUIET = {"seed": 1, "warn_independent_sampling": False}
BASES = {
    "tpe": lambda: TPESampler(multivariate=True, constant_liar=True, seed=1),
    "tpe, independent": lambda: TPESampler(seed=1),
    "tpe, grouped": lambda: TPESampler(multivariate=True, group=True, seed=1),
    "random": lambda: RandomSampler(seed=1),
    "qmc": lambda: samplers.QMCSampler(**QUIET),
    "cmaes": lambda: samplers.CmaEsSampler(n_startup_trials=0, **QUIET),
    "cmaes, separable": lambda: samplers.CmaEsSampler(n_startup_trials=0, use_separable_cma=True, **QUIET),
    "gp": lambda: samplers.GPSampler(n_startup_trials=0, **QUIET),
    "gp, deterministic": lambda: samplers.GPSampler(n_startup_trials=0, deterministic_objective=True, **QUIET),
    "nsga2": lambda: samplers.NSGAIISampler(seed=1, population_size=4),
    "nsga3": lambda: samplers.NSGAIIISampler(seed=1, population_size=4),
    "partly fixed": lambda: samplers.PartialFixedSampler({"level": 2}, TPESampler(seed=1)),
    "efficacy": lambda: EfficacySampler(blend=("u", "v"), seed=1),
}
WRAPPED = {name: BASES[name] for name in ("tpe", "tpe, independent", "tpe, grouped", "qmc", "cmaes", "nsga2")} | {
    "gp": lambda: samplers.GPSampler(n_startup_trials=12, **QUIET),
    "grid": lambda: samplers.GridSampler({"level": [0, 1, 2], "kind": ["p", "q"]}, seed=1),
    "brute force": lambda: samplers.BruteForceSampler(seed=1),
    "partly fixed": BASES["partly fixed"],
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wraps(name):
    """With any base, shares sum to 1 and none is 0; parameters that the base fixes or enumerates are respected."""
    study = searched(objective, 14, WRAPPED[name]())
    for trial in study.trials:
        values = [trial.params[n] for n in NAMES]
        assert sum(values) == pytest.approx(1.0)
        assert min(values) > 0
        assert set(trial.user_attrs[STAMP]) == {"evidence", "randomised", "model"}
    if name == "partly fixed":
        assert {trial.params["level"] for trial in study.trials} == {2}
    if name in ("grid", "brute force"):
        assert len({(t.params["level"], t.params["kind"]) for t in study.trials[:6]}) == 6
        assert len(study.trials) == 6 or name == "grid"


HOOKS = [name for name, member in inspect.getmembers(BaseSampler, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_delegated(hook):
    """Each public method of Optuna's BaseSampler is delegated to the base, including those that a release adds."""
    called, base = [], RandomSampler(seed=0)
    result = {} if hook in ("infer_relative_search_space", "sample_relative") else 0.5
    setattr(base, hook, lambda *args: called.append(args) or result)
    study = study_of(base)
    given = {
        "study": study,
        "trial": create_trial(state=TrialState.RUNNING),
        "search_space": {},
        "param_name": "x",
        "param_distribution": FloatDistribution(0, 1),
        "state": TrialState.COMPLETE,
        "values": [0.0],
    }
    wanted = [name for name in inspect.signature(getattr(BaseSampler, hook)).parameters if name != "self"]
    getattr(study.sampler, hook)(*(given[name] for name in wanted))
    assert len(called) == 1


def test_no_method_is_given_up():
    """The optimum at a vertex is found, and a bad method keeps the floor and is large in some randomised draws."""
    study = searched(lambda trial: 1 - blend_of(trial)[1], 70, seed=1, randomised=0.2)
    late = np.array([[trial.params[name] for name in NAMES] for trial in study.trials[20:]])
    stamps = [trial.user_attrs[STAMP]["randomised"] for trial in study.trials[20:]]
    assert late.min() >= 0.98 * FLOOR
    assert 2 <= sum(stamps) <= 25
    assert (late[stamps].max(axis=0) > 0.1).all()
    assert np.median(late[:, 1]) > 0.9


def test_the_same_seed_gives_the_same_study():
    """Another seed gives another one, and a new sampler with the same seed repeats no draw of a study it resumes."""

    def params(seed):
        return [trial.params for trial in searched(objective, 13, TPESampler(seed=5), seed=seed).trials]

    assert params(1) == params(1) != params(2)
    storage = optuna.storages.InMemoryStorage()
    for _ in range(2):
        study = searched(objective, 3, RandomSampler(), storage=storage)
    assert len({trial.params["w_a"] for trial in study.trials}) == 6


def test_draws_depend_on_storage_and_seed_alone():
    """A new sampler, a pickled one and one that sampled all trials make the same draws; another seed does not."""
    study = searched(lambda trial: float(np.square(blend_of(trial) - 0.25).sum()), 20, seed=4)

    def draws(sampler):
        copy = optuna.create_study(sampler=sampler)
        copy.add_trials(study.trials)
        return [blend_of(copy.ask()).tolist() for _ in range(3)]

    old = study.sampler
    new, other = (EfficacySampler(RandomSampler(seed=9), NAMES, seed=seed) for seed in (4, 5))
    assert draws(old) == draws(pickle.loads(pickle.dumps(old))) == draws(new) != draws(other)


def test_the_remembered_model_changes_no_draw(monkeypatch):
    """One sampler for 38 trials, which reuses models, makes the same draws as a new sampler for each trial."""
    monkeypatch.setattr("dropopt.study.blend.sampler.RENEWALS", 12)  # two trials share a model from the 24th on
    lasting, changing = study_of(), study_of()
    for _ in range(38):
        changing.sampler = study_of().sampler
        for study in (lasting, changing):
            trial = study.ask()
            study.tell(trial, 1 - blend_of(trial)[1])
    assert [trial.params for trial in lasting.trials] == [trial.params for trial in changing.trials]


def test_conditional_names():
    """The sampler works if some trials suggest only part of the blend, or none of it."""

    def conditional(trial):
        if trial.suggest_categorical("engine", ["none", "some", "all"]) == "none":
            return 1.0
        names = NAMES if trial.params["engine"] == "all" else NAMES[:3]
        return float(1 - blend_of(trial, names)[0])

    study = searched(conditional, 28, TPESampler(seed=0, multivariate=True))
    assert study.best_value < 0.1
    assert all(STAMP not in t.user_attrs for t in study.trials if t.params["engine"] == "none")


def test_a_stage_that_is_enqueued_as_a_whole():
    """The shares of one stage are given, those of the other are drawn, and no warning is raised."""
    study = study_of(names=NAMES[:2], stages=("early", "late"))
    study.enqueue_trial({"w_a_early": 0.3, "w_b_early": 0.5})
    study.optimize(lambda trial: float(sum(blend_of(trial, stage)[0] for stage in study.sampler.names)), n_trials=1)
    params = study.trials[0].params
    assert (params["w_a_early"], params["w_b_early"]) == (0.3, 0.5)
    assert params["w_a_late"] + params["w_b_late"] == pytest.approx(1)


def test_degenerate_outcomes():
    """Identical values, infinities, failures and pruned trials do not prevent draws."""

    def odd(trial):
        blend_of(trial)
        if trial.number % 5 == 1:
            raise optuna.TrialPruned
        return [1.0, None, math.nan, -math.inf, 1.0][trial.number % 5]

    assert len(searched(odd, 30).trials) == 30


def test_workers_and_threads():
    """Threads that share a sampler get different blends, each of which sums to 1."""
    study = study_of()
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len({trial.params["w_a"] for trial in study.trials[:8]}) == 8
    assert all(sum(t.params[n] for n in NAMES) == pytest.approx(1.0) for t in study.trials)


def test_a_prior_helps_and_is_overridden():
    """A prior from a similar study finds the optimum at once; one from an opposite study is overridden."""
    prior = export_evidence(searched(objective, 24))

    def drawn(function, n_trials, begin, method):
        """The share of a method, on the median of the draws from a model."""
        trials = searched(function, n_trials, RandomSampler(seed=1), seed=1, prior=prior).trials[begin:]
        return np.median([t.params[method] for t in trials if not t.user_attrs[STAMP]["randomised"]])

    assert drawn(objective, 6, 0, "w_b") > 0.8
    assert drawn(lambda trial: float(1 - blend_of(trial)[0]), 40, 25, "w_a") > 0.9


def test_ask_is_cheap():
    """At 1,000 trials, a draw takes less than 20 ms of processor time more than the base alone (best of several)."""
    rng, names = np.random.default_rng(0), (*BLEND, *(f"x{i}" for i in range(6)))
    distributions = dict.fromkeys(names, FloatDistribution(0, 1))
    trials = []
    for row in np.hstack([rng.dirichlet(np.ones(5), size=1000), rng.uniform(size=(1000, 6))]).tolist():
        params = dict(zip(names, row, strict=True))
        trials.append(create_trial(params=params, distributions=distributions, value=row[0] + rng.normal() * 0.1))

    def cost(sampler):
        study = optuna.create_study(sampler=sampler)
        study.add_trials(trials)
        times = []
        for _ in range(6):
            start = time.process_time()
            trial = study.ask(distributions)
            times.append(time.process_time() - start)
            study.tell(trial, 0.5)
        return min(times)

    assert cost(EfficacySampler(RandomSampler(seed=0), seed=0, randomised=1e-9)) - cost(RandomSampler(seed=0)) < 0.02


#: The parameters of Optuna's tests are x, y, z, a, b, ...: no part of the blend, some of it, or the blend itself.
BLENDS = {"absent": BLEND, "whole": ("x", "y"), "partly": ("x", "share"), "by stage": (("x", "y"), ("a", "b"))}
CASES = [(base, blend) for base in BASES for blend in BLENDS]
QUICK = [("tpe", "whole"), ("tpe", "by stage"), ("random", "partly"), ("cmaes", "whole"), ("efficacy", "absent")]
#: Bases that sample jointly from the second trial on, which the tests of joint sampling take for granted. The shares of
#: a blend are drawn later, when the other parameters are known, so that the blend has to be absent.
JOINT = {name: BASES[name] for name in ("gp", "cmaes")}
JOINT |= {"tpe": lambda: TPESampler(multivariate=True, n_startup_trials=0, seed=1)}


def pytest_generate_tests(metafunc):
    """Make samplers of a few cases, or of all with the option --all-samplers."""
    if metafunc.cls is None:
        return
    everything = metafunc.config.getoption("all_samplers")
    if metafunc.cls is TestJoint:
        cases = [(JOINT[base], base, "absent") for base in (JOINT if everything else ["tpe"])]
    else:
        cases = [(BASES[base], base, blend) for base, blend in (CASES if everything else QUICK)]
    made = [lambda make=make, blend=blend: EfficacySampler(make(), BLENDS[blend], seed=1) for make, _, blend in cases]
    metafunc.parametrize("sampler", made, ids=[f"{base}-{blend}" for _, base, blend in cases])


@pytest.mark.filterwarnings("ignore")
class TestBasic(BasicSamplerTestCase):
    """Independent sampling, conditional spaces, dynamic ranges, fixed parameters, objectives that are not finite."""


@pytest.mark.filterwarnings("ignore")
class TestJoint(RelativeSamplerTestCase):
    """Joint sampling."""
