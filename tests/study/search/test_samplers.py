"""Samplers and pruners by name: their arguments, the hand-over from a Gaussian process, pickles that are not read."""

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from dropopt.config import ConfigError
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.sampler import EfficacySampler
from dropopt.study.define.space import Space
from dropopt.study.search import samplers
from dropopt.study.search.forecast import ForecastPruner
from dropopt.study.search.handover import HandoverSampler
from dropopt.study.search.percentile import QuickPercentilePruner
from dropopt.study.search.pruners import make_pruner
from dropopt.study.search.recent import RecentSampler
from dropopt.study.search.samplers import blend_of, make_sampler


def test_pruners_by_name():
    """The class and all arguments of each pruner, for 30 epochs, of which the first half is never pruned."""
    median: Any = make_pruner("median", 30)
    percentile: Any = make_pruner("percentile", 30)
    assert type(median) is type(percentile) is QuickPercentilePruner
    for pruner, quantile in ((median, 50.0), (percentile, 25.0)):
        found = [pruner._percentile, pruner._n_startup_trials, pruner._n_warmup_steps, pruner._interval_steps]
        assert found == [quantile, 4, 15, 1]
    forecast: Any = make_pruner("forecast", 30)
    found = [forecast._n_startup_trials, forecast._chance, forecast._n_warmup_steps]
    assert (type(forecast), found) == (ForecastPruner, [4, 0.1, 10])
    for epochs, least in ((30, 5), (1, 1)):
        band: Any = make_pruner("hyperband", epochs)
        assert type(band) is HyperbandPruner
        assert (band._min_resource, band._max_resource, band._reduction_factor) == (least, epochs, 3)
    assert type(make_pruner("none", 30)) is NopPruner
    assert make_pruner("median", 20)._n_warmup_steps == 10  # type: ignore[attr-defined]
    for name in ("median", "percentile", "forecast"):
        assert make_pruner(name, 30, anchors=5)._n_startup_trials == 9  # type: ignore[attr-defined]


def space(*names: str, choices: tuple[str, ...] = (), conditional: bool = False) -> Any:
    """A search space as samplers read it."""
    parameters = [SimpleNamespace(name=name, choices=(1, 2) if name in choices else ()) for name in names]
    return SimpleNamespace(name="mine", parameters=parameters, conditional=conditional)


BLEND = ("w_pfid", "lr", "w_adaptive")


def state(sampler: Any) -> float:
    """The next random number of a sampler."""
    return float(sampler._rng.rng.random())


def tpe_in(sampler: Any) -> Any:
    """The TPE sampler that sees a limited number of trials."""
    assert type(sampler) is RecentSampler
    assert (sampler._limit, sampler._best) == (250, 25)
    assert type(sampler._base_sampler) is TPESampler
    return sampler._base_sampler


def test_samplers_by_name():
    """The class, the seed and all arguments of each sampler."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made: list[Any] = [make_sampler(name, space(*BLEND), 5) for name in ("random", "tpe", "gp", "cmaes")]
        grouped = tpe_in(make_sampler("tpe", space(*BLEND, conditional=True), 5))
    random, recent, handover, cmaes = made
    tpe = tpe_in(recent)
    gp = handover._first
    assert [type(one) for one in (random, tpe, gp, cmaes)] == [RandomSampler, TPESampler, GPSampler, CmaEsSampler]
    assert isinstance(handover._then, RecentSampler)
    expected = float(RandomSampler(seed=5)._rng.rng.random())
    assert [state(random), state(tpe), state(gp)] == [expected] * 3
    assert cmaes._cma_rng.rng.random() == CmaEsSampler(seed=5)._cma_rng.rng.random()
    assert (cmaes._n_startup_trials, cmaes._warn_independent_sampling) == (1, False)
    assert (gp._n_startup_trials, gp._warn_independent_sampling) == (10, False)
    for sampler, group in ((tpe, False), (grouped, True)):
        assert (sampler._n_startup_trials, sampler._n_ei_candidates, sampler._multivariate) == (10, 24, True)
        assert (sampler._group, sampler._constant_liar) == (group, True)


def test_the_blend_decides_the_sampler():
    """`auto` is `efficacy` if the space searches a blend of ranges, with the space's order, base and seed."""
    prior = {"names": [["w_pfid", "w_adaptive"]], "columns": [], "rows": []}
    for name, given in (("auto", None), ("efficacy", prior)):
        sampler: Any = make_sampler(name, space(*BLEND, conditional=True), 5, given)
        assert type(sampler) is EfficacySampler
        assert sampler.names == (("w_pfid", "w_adaptive"),)
        assert (sampler._seed, sampler._prior) == (5, given)
        base = tpe_in(sampler._base)
        assert (base._group, state(base)) == (True, float(RandomSampler(seed=5)._rng.rng.random()))
    tpe_in(make_sampler("auto", space("lr", "w_pfid"), 5))
    assert blend_of(space(*BLEND, choices=("w_pfid",))) == ()
    assert blend_of(space(*BLEND, "w_spatial", choices=("w_spatial",))) == (("w_pfid", "w_adaptive"),)


def test_wrong_samplers():
    """What the errors say: no blend for `efficacy`, and a prior for a sampler that does not learn one."""
    with pytest.raises(NoBlendError) as missing:
        make_sampler("efficacy", space("lr"), 0)
    assert str(missing.value) == (
        "space 'mine' searches no blend (two or more weights, either all by stage or none), which the sampler "
        "efficacy needs; use --sampler tpe"
    )
    for name, shown in (("tpe", "tpe"), ("auto", "tpe"), ("random", "random")):
        with pytest.raises(ConfigError) as error:
            make_sampler(name, space("lr"), 0, {})
        message = f"a prior needs the sampler efficacy, the only one that learns the blend, got {shown}"
        assert str(error.value) == message


def test_gp_leaves_the_draws_to_tpe(monkeypatch):
    """The sampler ``gp`` is fast in a study with many trials, and says why."""
    monkeypatch.setattr(samplers, "GP_TRIALS", 12)
    space, notices = Space.load("dropout"), []
    study = optuna.create_study(sampler=samplers.make_sampler("random", space, 0))
    for _ in range(14):
        trial = study.ask()
        space.suggest(trial, 10)
        study.tell(trial, trial.params["lr"])
    study.sampler = samplers.make_sampler("gp", space, 0, notice=notices.append)
    fitted = "the Gaussian process was fitted"
    monkeypatch.setattr(study.sampler._first, "sample_relative", lambda *_: pytest.fail(fitted))
    space.suggest(study.ask(), 10)
    assert notices == ["the sampler gp is slow above 12 complete trials, so tpe is used from now on"]


def test_every_call_reaches_the_sampler_of_the_trial():
    """From its start to its end, also while trials of the other sampler are running. The change is announced once."""
    first, second, notices = Mock(spec=BaseSampler), Mock(spec=BaseSampler), []
    sampler = HandoverSampler(first, second, 1, lambda: notices.append("now"))
    study, begun = optuna.create_study(sampler=RandomSampler()), []
    for chosen, other in ((first, second), (first, second), (second, first), (second, first)):
        number = study.ask().number
        trial = study.get_trials()[number]
        sampler.before_trial(study, trial)
        chosen.before_trial.assert_called_with(study, trial)
        begun.append((trial, chosen, other))
        study.tell(study.ask(), 1.0)  # one more is complete
    assert [first.before_trial.call_count, second.before_trial.call_count, notices] == [2, 2, ["now"]]
    for trial, chosen, other in begun:
        calls = {
            "infer_relative_search_space": (study, trial),
            "sample_relative": (study, trial, {}),
            "sample_independent": (study, trial, "x", FloatDistribution(0, 1)),
            "after_trial": (study, trial, TrialState.COMPLETE, [1.0]),
        }
        for name, arguments in calls.items():
            assert getattr(sampler, name)(*arguments) in (None, getattr(chosen, name).return_value)
            getattr(chosen, name).assert_called_once_with(*arguments)
            getattr(chosen, name).reset_mock()
            getattr(other, name).assert_not_called()
    assert not sampler._chosen
    sampler.reseed_rng()
    assert [one.reseed_rng.call_count for one in (first, second)] == [1, 1]
    assert str(sampler) == f"HandoverSampler({first}, {second})"


REFUSED = (
    "the sampler cmaes reads pickles from the storage, which can run the code of whoever writes there; use it with "
    "a SQLite or journal file that only you can write, or use --sampler tpe or gp"
)


def test_cmaes_does_not_read_pickles_of_others(tmp_path, monkeypatch):
    """It is refused on servers, on another user's file, and on one that the group or others can write."""
    monkeypatch.chdir(tmp_path)
    for name, mode in (("mine.db", 0o644), ("group.db", 0o620), ("shared.db", 0o602)):
        Path(name).touch()
        Path(name).chmod(mode)
    own, others = "sqlite:///mine.db", "sqlite:///shared.db"
    for url in (own, f"{own}?timeout=3", "sqlite:///none.db", "s.log", f"{tmp_path}/mine.db"):
        samplers.refuse_pickles("cmaes", url)
    servers = ["postgresql://h/mine.db", "redis://h"]
    for url in (*servers, others, f"{others}?timeout=3", "sqlite:///group.db", "shared.db", "mine.db/below"):
        for name in ("tpe", "efficacy"):
            samplers.refuse_pickles(name, url)
        with pytest.raises(ConfigError) as caught:
            samplers.refuse_pickles("cmaes", url)
        assert str(caught.value) == REFUSED
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError):
        samplers.refuse_pickles("cmaes", "mine.db")


def test_without_a_listener_nothing_is_announced():
    """The hand-over needs no notice."""
    sampler = samplers.make_sampler("gp", Space.load("dropout"), 0)
    sampler._on_handover()
    study = SimpleNamespace(_get_trials=lambda **_: [None] * (samplers.GP_TRIALS + 1))
    sampler._then = Mock(spec=BaseSampler)
    sampler.before_trial(study, SimpleNamespace(_trial_id=3))
    assert sampler._chosen == {3: sampler._then}
