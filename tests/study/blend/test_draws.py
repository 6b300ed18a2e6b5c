"""Draws of the sampler, restated from their parts: the table, the model, the climb and the simplex."""

import pickle
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import TrialState, create_trial

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

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
NAMES = (("w_a", "w_b", "w_c"),)
STAGED = (*NAMES, ("w_d", "w_e", "w_f"))
UNIT = FloatDistribution(0, 1)
OTHERS = {"x": UNIT, "n": IntDistribution(0, 9), "kind": CategoricalDistribution(["p", "q"])}


def history(count, names=NAMES):
    """Trials whose value depends on the first method and on x, with a count and a kind as other parameters."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        params = {}
        for stage in names:
            params |= dict(zip(stage, rng.dirichlet(np.ones(len(stage))).tolist(), strict=True))
        distributions = dict.fromkeys(params, UNIT) | OTHERS
        params |= {"x": float(rng.uniform()), "n": int(rng.integers(10)), "kind": str(rng.choice(["p", "q"]))}
        value = float(abs(params[names[0][0]] - params["x"]) + rng.normal() * 0.1)
        found.append(create_trial(params=params, distributions=distributions, value=value))
        found[-1].number = number
    return found


def altered(trial, without="", **values):
    """The trial with other values, and without one of its parameters."""
    params = {name: value for name, value in (trial.params | values).items() if name != without}
    return create_trial(params=params, distributions={n: trial.distributions[n] for n in params}, value=trial.value)


def study_of(trials=(), base=None, names=NAMES, direction="minimize", **options):
    """A study with finished trials; the seed of its sampler is 1 unless ``options`` have another."""
    sampler = EfficacySampler(base or RandomSampler(seed=0), names, **{"seed": 1} | options)
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.add_trials(trials)
    return study


def asked(study, **enqueued):
    """The next trial, with enqueued values; those of parameters that are no shares are suggested."""
    study.enqueue_trial(enqueued)
    trial = study.ask()
    for name in enqueued:
        if name in OTHERS:
            trial._suggest(name, OTHERS[name])
    return trial


def share(trial, name, high=1.0):
    return trial.suggest_float(name, 0, high)


def at_random(*seed, distributions=None, held=None, floor=0.001, decided=True):
    """A draw that ignores the evidence, restated; if there is a model, a random number has decided that it does."""
    rng = np.random.default_rng(seed)
    if decided:
        rng.uniform()
    return Simplex(NAMES, distributions or {}, held or {}, floor).values(random_blend(rng, 3)[None], 0)[0]


PRIOR = export_evidence(study_of(history(10)), NAMES)


@pytest.mark.parametrize(
    ("direction", "names", "count", "used", "prior"),
    [
        ("minimize", NAMES, 30, 30, None),
        ("maximize", STAGED, 30, 30, None),
        ("minimize", STAGED, 107, 106, None),  # from 100 trials on, models are shared: the last trial is left out
        ("maximize", NAMES, 0, 0, PRIOR),
    ],
)
def test_a_draw_by_hand(direction, names, count, used, prior):
    """A draw is the climb of a path of the model of earlier trials and of a prior, given the other parameters."""
    trials = history(count, names)
    study = study_of(trials, None, names, direction, seed=5, randomised=1e-9, floor=0.01, prior=prior)
    trial = study.ask()
    x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 0, 9)
    drawn = [[share(trial, name) for name in stage] for stage in names]

    limit = 100 if names == NAMES else 84
    table = gather(study.trials[:used], names, maximise=direction == "maximize", limit=limit, prior=prior)
    model, rng = Surrogate(table), np.random.default_rng([5, count, 0])
    assert not rng.uniform() < 1e-9
    path, kind = model.draw(rng, table.standardise({"x": x, "n": float(n)}))
    simplex = Simplex(names, {}, {}, 0.01)
    for stage in range(len(names)):
        best = climb(path, stage, model.best(stage, 6), simplex.values, rng, stages=len(names))
        assert drawn[stage] == pytest.approx(best.tolist(), abs=1e-12)
    assert study.trials[-1].user_attrs[STAMP] == {"evidence": used, "randomised": False, "model": kind}


def test_a_randomised_draw_by_hand():
    """A draw that ignores the evidence is a random blend on the legal simplex, with room for an enqueued share."""
    study = study_of(history(12), seed=5, randomised=1.0, floor=0.1)
    trial = asked(study, w_b=0.4)
    expected = at_random(5, 12, 0, held={"w_b": 0.4}, floor=0.1)
    assert [share(trial, name) for name in ("w_c", "w_a", "w_b")] == [*expected[[2, 0]], 0.4]
    assert study.trials[-1].user_attrs[STAMP] == {"evidence": 12, "randomised": True, "model": "uniform"}


@pytest.mark.parametrize(("given", "fraction"), [({}, 0.1), ({"randomised": 0.5}, 0.5)])
def test_the_fraction_of_randomised_draws(given, fraction):
    """One draw in ten ignores the evidence unless another fraction is given."""
    study = study_of(history(20), seed=0, **given)
    for _ in range(30):
        share(study.ask(), "w_a")
    stamps = [trial.user_attrs[STAMP]["randomised"] for trial in study.trials[20:]]
    assert stamps == [np.random.default_rng([0, number, 0]).uniform() < fraction for number in range(20, 50)]
    assert 0 < sum(stamps) < 30


@pytest.mark.parametrize("names", [NAMES, STAGED])
@pytest.mark.parametrize("missing", [1, 0])
def test_there_is_a_model_from_eight_trials_for_each_stage_on(names, missing):
    count = 8 * len(names) - missing
    study = study_of(history(count, names), names=names, randomised=1e-9)
    share(study.ask(), "w_a")
    stamp = study.trials[-1].user_attrs[STAMP]
    assert (stamp["randomised"], stamp["evidence"]) == (bool(missing), count)


class Recorder(Surrogate):
    """A model that records the covariates for which functions are drawn."""

    given: list[np.ndarray] = []  # noqa: RUF012

    def draw(self, rng, covariates):
        """Draw as usual."""
        self.given.append(covariates)
        return super().draw(rng, covariates)


class Relative(RandomSampler):
    """A base that samples x and one share of the blend jointly, before the trial asks for them."""

    def infer_relative_search_space(self, study, trial):
        """Two parameters."""
        return {"x": UNIT, "w_c": UNIT}

    def sample_relative(self, study, trial, search_space):
        """Constants."""
        assert search_space.keys() == {"x", "w_c"}
        return {"x": 0.125, "w_c": 0.77}


def test_known_parameters_are_covariates(monkeypatch):
    """A draw is given what the base sampled, what is enqueued and what was suggested, the latter before the former."""
    monkeypatch.setattr(module, "Surrogate", Recorder)
    trials = history(20)
    table = gather(trials, NAMES, maximise=False)
    low, relative = RandomSampler(seed=0), Relative(seed=0)
    for base, enqueued, suggested, known in (
        (low, {}, (), {}),
        (relative, {}, (), {"x": 0.125}),
        (low, {"n": 7}, (), {"n": 7.0}),
        (relative, {"x": 0.5}, (), {"x": 0.5}),
        (low, {"kind": "q", "x": 0.25}, ("x",), {"x": 0.25, "kind='p'": 0.0, "kind='q'": 1.0}),
        (low, {"other": 1.0, "n": 3}, ("n",), {"n": 3.0}),
    ):
        study = study_of(trials, base, randomised=1e-9)
        study.enqueue_trial(enqueued)
        trial = study.ask()
        for name in suggested:
            trial._suggest(name, OTHERS[name])
        assert share(trial, "w_c") != 0.77
        assert Recorder.given[-1] == pytest.approx(table.standardise(known)), known


def test_shares_keep_the_distributions_of_earlier_trials():
    """Before all shares are suggested, the ranges of the others are those of the last trial that had them."""
    trials = history(9)
    for trial, high in ((trials[3], 0.9), (trials[7], 0.05)):
        trial.distributions = {**trial.distributions, "w_b": FloatDistribution(0, high)}
        trial.params = {**trial.params, "w_b": min(trial.params["w_b"], high)}
    trial = study_of([*trials[:8], altered(trials[8], "w_b")], seed=3, randomised=1.0).ask()
    distributions = {"w_b": FloatDistribution(0, 0.05), "w_a": FloatDistribution(0.2, 0.7)}
    expected = at_random(3, 9, 0, distributions=distributions)
    assert trial.suggest_float("w_a", 0.2, 0.7) == pytest.approx(expected[0])
    assert share(trial, "w_c") == pytest.approx(expected[2])


def test_the_shares_of_a_trial_come_from_one_draw():
    """A share outside its range is moved to it, and the draw is kept; it is repeated if a share has another value."""
    study = study_of(seed=3, randomised=1.0)
    trial = study.ask()
    drawn = [share(trial, "w_a"), share(trial, "w_b", 0.01), share(trial, "w_c")]
    joint = at_random(3, 0, 0, decided=False)
    assert drawn == pytest.approx([joint[0], 0.01, joint[2]])
    assert joint[1] > 0.01

    changed = study.trials[-1]
    changed.params = {"w_b": 0.9}
    again = at_random(3, 0, 1, distributions={"w_b": FloatDistribution(0, 0.01)}, held={"w_b": 0.9}, decided=False)
    for name, expected in (("w_a", again[0]), ("w_c", again[2])):
        assert study.sampler.sample_independent(study, changed, name, UNIT) == pytest.approx(expected)


@pytest.mark.parametrize(("alike", "expected"), [(1, False), (2, True)])
@pytest.mark.parametrize(("name", "value"), [("n", 3), ("kind", "p")])
def test_shares_that_are_not_suggested(alike, expected, name, value):
    """Two earlier trials with the same count or kind and without a share show that it will not be suggested."""
    others = [altered(trial, n=5, kind="q") for trial in history(9)]
    short = [altered(trial, "w_c", **{name: value}) for trial in others[:alike]]
    trial = asked(study_of([*others, *short], randomised=1.0), **{name: value})
    assert (share(trial, "w_a") + share(trial, "w_b") == pytest.approx(1)) is expected
    assert 0 < share(trial, "w_c") < 1  # suggested after all


@pytest.mark.parametrize("given", [{"kind": "p", "n": 3}, {"n": 3, "kind": "p"}])
def test_each_parameter_may_show_a_share_that_is_not_suggested(given):
    """One share is not suggested with the kind of the trial, another one not with its count: the last one is all."""
    trials = [altered(trial, n=5, kind="q") for trial in history(8)]
    trials = [altered(one, "w_b", kind="p") for one in trials[:4]] + [altered(one, "w_c", n=3) for one in trials[4:]]
    assert share(asked(study_of(trials, randomised=1.0), **given), "w_a") == pytest.approx(1)


def test_floats_do_not_show_which_shares_are_suggested():
    """Equal floats are a coincidence or a constant, and trials with them say nothing about the share."""
    trial = asked(study_of([altered(one, "w_c", x=0.5) for one in history(6)], randomised=1.0), x=0.5)
    assert share(trial, "w_a") + share(trial, "w_b") < 0.9999


def test_the_given_blend_is_stamped():
    """A trial with shares that were not drawn is stamped at its end, and only such a trial."""
    study = study_of()
    study.enqueue_trial({"w_a": 0.3})
    study.enqueue_trial({"x": 0.3})
    study.optimize(lambda trial: share(trial, "x" if trial.number == 1 else "w_a"), n_trials=3)
    given, none, drawn = (trial.user_attrs for trial in study.trials)
    assert given == {STAMP: {"evidence": 0, "randomised": False, "model": "given"}}
    assert none == {}
    assert drawn[STAMP]["model"] == "uniform"
    assert study.sampler._running == {}


def test_the_default_base_and_blend():
    """The default base is a multivariate TPE with constant_liar and the sampler's seed; the blend is the engine's."""
    sampler = EfficacySampler(seed=11)
    base: Any = sampler._base
    assert sampler.names == (BLEND,)
    assert (type(base), base._multivariate, base._constant_liar) == (TPESampler, True, True)
    assert base._rng.rng.random() == TPESampler(seed=11)._rng.rng.random()
    assert str(EfficacySampler(RandomSampler())) == f"EfficacySampler({RandomSampler()})"


@pytest.mark.parametrize("given", [{"floor": 0.0}, {"floor": 0.332}, {"randomised": 1.0}])
def test_the_limits_of_arguments_are_allowed(given):
    EfficacySampler(RandomSampler(), NAMES, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"floor": 1 / 3}, "floor must be in [0, 0.333333), got 0.3333333333333333"),
        ({"floor": -0.001}, "floor must be in [0, 0.333333), got -0.001"),
        ({"randomised": 1.01}, "randomised must be in (0, 1], got 1.01"),
        ({"randomised": 0}, "randomised must be in (0, 1], got 0"),
        ({"blend": ["w"]}, "blend must be two or more different names, the same number in each stage, got ['w']"),
        (
            {"prior": {"names": [["q", "r"]], "columns": [], "rows": []}},
            "the prior is about q, r, but this study searches w_a, w_b, w_c",
        ),
    ],
)
def test_wrong_arguments(given, message):
    """Beyond the ends of each range, names that are no blend, and a prior about other names."""
    with pytest.raises(ConfigError) as error:
        EfficacySampler(RandomSampler(), **{"blend": NAMES} | given)
    assert str(error.value) == message


def test_a_sampler_without_a_seed():
    """Without a seed, samplers draw different blends of the same trial."""
    assert len({share(study_of(seed=None).ask(), "w_a") for _ in range(3)}) == 3


def test_trials_that_never_end_are_forgotten():
    """At most 512 running trials are remembered, the latest; an entry of an earlier study is dropped."""
    study = study_of()
    sampler, ids = study.sampler, []
    for _ in range(514):
        trial = study.ask()
        share(trial, "w_a")
        ids.append(trial._trial_id)
    assert list(sampler._running) == ids[2:]
    trial = study.trials[-1]
    sampler._running[trial._trial_id].blend = {"w_a": 0.9}
    sampler.before_trial(study, trial)
    assert trial._trial_id not in sampler._running
    again = pickle.loads(pickle.dumps(sampler))
    assert list(again._running) == list(sampler._running)
    assert again._model == module._Model()


class Listed(list):
    """Trials that cannot be gone through, only looked up."""

    def __iter__(self):
        """Fail."""
        raise AssertionError("a draw goes through all trials")


def test_a_draw_goes_through_no_trials_that_it_knows(monkeypatch):
    """As long as the model of an earlier draw counts, although one more trial has finished among the others."""
    study = study_of(history(299), seed=0)
    sampler = study.sampler
    late, early = study.ask(), study.ask()
    share(early, "w_a")
    study.tell(early, 0.1)
    share(study.ask(), "w_a")
    model = sampler._model
    share(late, "w_a")
    study.tell(late, 0.2)
    trials = Study._get_trials
    monkeypatch.setattr(Study, "_get_trials", lambda self, *args, **kwargs: Listed(trials(self, *args, **kwargs)))
    share(study.ask(), "w_a")
    assert sampler._model.trials == model.trials == 300
    assert sampler._model is not model, "the late trial is one of the first 300"
    model = sampler._model
    share(study.ask(), "w_a")
    assert sampler._model is model


class Blind(BruteForceSampler):
    """An enumerating base that records the parameters that it sees."""

    def __init__(self):
        super().__init__(seed=0)
        self.seen = []

    def sample_independent(self, study, trial, name, distribution):
        """Record those of a finished trial, three times, and of the running one."""
        storage = study._storage.get_all_trials(study._study_id, deepcopy=False)
        finished = [
            next(one for one in trials if one.state == TrialState.COMPLETE)
            for trials in (study.get_trials(deepcopy=False), study._get_trials(deepcopy=False), storage)
        ]
        self.seen += [(set(one.params), set(one.distributions)) for one in (*finished, trial)]
        assert study.direction.name == "MINIMIZE"
        return super().sample_independent(study, trial, name, distribution)


def test_an_enumerating_base_does_not_see_the_blend():
    """A brute-force sampler, also one inside another sampler, sees trials without the shares."""
    blind = Blind()
    base = PartialFixedSampler({"k": 1}, blind)
    assert (enumerates(base), enumerates(RandomSampler())) == (True, False)
    distributions = {"w_a": UNIT, "n": OTHERS["n"], "k": IntDistribution(0, 1)}
    study = study_of([create_trial(value=1.0, params={"w_a": 0.5, "n": 3, "k": 0}, distributions=distributions)], base)
    trial = study.ask()
    for name, distribution in distributions.items():
        trial._suggest(name, distribution)
    others = {"n", "k"}
    assert blind.seen[:4] == [(others, others)] * 3 + [(set(), set())]
    (asked_one,) = study.trials[1:]
    assert set(asked_one.params) == {"w_a", *others}, "the trial itself is not changed"
    _, reduced = hide(study, asked_one, frozenset({"w_a"}))
    assert set(reduced.params) == set(reduced.distributions) == others


def test_any_other_base_sees_the_blend():
    """A base that models parameters jointly can learn how the others depend on the shares."""
    seen = []

    class Seeing(RandomSampler):
        def sample_relative(self, study, trial, search_space):
            seen.append(set(study.get_trials(deepcopy=False)[0].params))
            return super().sample_relative(study, trial, search_space)

    done = create_trial(value=1.0, params={"w_a": 0.5, "n": 3}, distributions={"w_a": UNIT, "n": OTHERS["n"]})
    study_of([done], Seeing(seed=0)).ask().suggest_int("n", 0, 9)
    assert seen == [{"w_a", "n"}]


def test_fixed_shares_of_nested_bases():
    """What the outer of two samplers fixes takes precedence; a fixed share is suggested and is not drawn."""
    inner = PartialFixedSampler({"w_a": 0.1, "w_b": 0.2}, RandomSampler(seed=0))
    base = PartialFixedSampler({"w_a": 0.3}, inner)
    assert fixed_params(base) == {"w_a": 0.3, "w_b": 0.2}
    assert fixed_params(RandomSampler()) == {}
    trial = study_of((), base).ask()
    assert [share(trial, name) for name in ("w_c", "w_a", "w_b")] == [pytest.approx(0.5), 0.3, 0.2]


def test_a_share_that_is_not_a_number_is_left_to_the_base():
    """A weight with choices of text is sampled by the base, and several objectives are refused in one sentence."""
    study = study_of((), PartialFixedSampler({"w_a": "no"}, RandomSampler()))
    assert study.ask().suggest_categorical("w_a", ["yes", "no"]) == "no"
    several = optuna.create_study(directions=["minimize"] * 2, sampler=study.sampler)
    with pytest.raises(ConfigError, match=r"^EfficacySampler supports one objective, got a study with several$"):
        several.ask().suggest_float("w_a", 0, 1)
