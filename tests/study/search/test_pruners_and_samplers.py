"""Samplers and pruners by name, and the forecast against a slow ridge regression."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import HyperbandPruner, NopPruner
from optuna.samplers import CmaEsSampler, GPSampler, RandomSampler
from optuna.trial import TrialState, create_trial
from scipy.stats import t as student_t

from dropopt.config import ConfigError
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.sampler import EfficacySampler
from dropopt.study.search.forecast import ForecastPruner, chance_to_win
from dropopt.study.search.percentile import QuickPercentilePruner
from dropopt.study.search.pruners import make_pruner
from dropopt.study.search.quick_tpe import QuickTPESampler
from dropopt.study.search.recent import RecentSampler
from dropopt.study.search.samplers import blend_of, make_sampler


def by_leaving_one_out(here: float, reached: np.ndarray, final: np.ndarray) -> float:
    """The probability of winning, with the ridge regression that has the smallest error of leaving one out."""
    scale = float(np.std(reached)) or 1.0
    x, at = (reached - reached.mean()) / scale, (here - reached.mean()) / scale

    def ridge(x: np.ndarray, y: np.ndarray, strength: float, at: float) -> float:
        centred = x - x.mean()
        slope = float(centred @ (y - y.mean())) / (float(centred @ centred) + strength)
        return float(y.mean() + slope * (at - x.mean()))

    n = len(x)
    errors = {}
    for strength in 10.0 ** np.linspace(-1, 3, 9):
        rest = [np.delete(np.arange(n), i) for i in range(n)]
        misses = [ridge(x[r], final[r], strength, x[i]) - final[i] for i, r in enumerate(rest)]
        errors[strength] = float(np.mean(np.square(misses)))
    best = min(errors, key=lambda strength: errors[strength])
    error = max(math.sqrt(errors[best] * (n + 1) / n), 1e-12)
    return float(student_t.cdf((final.min() - ridge(x, final, best, at)) / error, n - 1))


@pytest.mark.parametrize("predictive", [0.0, 0.5, 3.0])
def test_the_chance_to_win_is_that_of_a_slow_regression(predictive: float) -> None:
    """The forecast and its error are those of a ridge regression that is fitted once for each trial left out."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        reached = rng.normal(size=4 + 3 * seed) * 0.3 + 2
        final = predictive * reached + rng.normal(size=len(reached)) * 0.1
        for here in (1.5, 2.0, 2.7):
            found = chance_to_win(here, reached, final)
            assert found == pytest.approx(by_leaving_one_out(here, reached, final), rel=1e-6)
    equal = np.full(5, 2.0)
    assert chance_to_win(2.0, equal, np.arange(5.0)) == pytest.approx(by_leaving_one_out(2.0, equal, np.arange(5.0)))
    assert chance_to_win(2.0, equal, equal) == pytest.approx(0.5)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pruning_is_a_threshold_on_the_chance(direction: str) -> None:
    """A trial behind the best is pruned below the given chance.

    Logarithms are compared if all values, with the sign of a loss, are positive. Mirrored studies decide the same.
    """
    sign, rng = (1.0 if direction == "minimize" else -1.0), np.random.default_rng(0)
    for early, late in ((0.2, 0.2), (-9.0, -9.0), (-9.0, 0.2), (0.2, -9.0), (None, 0.2), (0.2, None)):
        reached = rng.uniform(0.5, 2.0, size=8)
        final = reached * 0.3 + rng.uniform(0.01, 0.2, size=8)
        reached += -reached.min() if early is None else early  # None: the lowest value is exactly 0
        final += -final.min() if late is None else late
        study = optuna.create_study(direction=direction)
        for at, value in zip(reached, final, strict=True):
            study.add_trial(create_trial(value=sign * value, intermediate_values={1: 99.0, 3: sign * at}))
        study.add_trial(create_trial(state=TrialState.FAIL, intermediate_values={3: sign * -50.0}))
        behind = np.quantile(reached, [0.2, 0.35, 0.5, 0.7, 1.0])
        for here in behind:
            given, r, f = float(here), reached, final
            if min(here, r.min(), f.min()) > 0:
                given, r, f = math.log(here), np.log(r), np.log(f)
            chance = by_leaving_one_out(given, r, f)
            trial = create_trial(state=TrialState.RUNNING, intermediate_values={2: 0.0, 3: sign * float(here)})
            for limit in (chance * 0.99, min(chance * 1.01, 0.999)):
                assert ForecastPruner(chance=limit).prune(study, trial) is (limit > chance)
        front = create_trial(state=TrialState.RUNNING, intermediate_values={3: sign * float(reached.min())})
        assert not ForecastPruner(chance=0.999).prune(study, front)


def test_forecasts_need_enough_trials() -> None:
    """Four complete trials are needed unless another number is given, at least three; chance is in (0, 1)."""
    for count, given, expected in ((3, {}, False), (4, {}, True), (3, {"n_startup_trials": 3}, True)):
        study = optuna.create_study()
        for i in range(count):
            study.add_trial(create_trial(value=1 + 0.1 * i, intermediate_values={0: 1 + 0.1 * i}))
        trial = create_trial(state=TrialState.RUNNING, intermediate_values={0: 90.0})
        assert ForecastPruner(**given).prune(study, trial) is expected  # type: ignore[arg-type]
    for wrong, message in (
        ({"chance": 0.0}, "chance must be in (0, 1), got 0.0"),
        ({"chance": 1}, "chance must be in (0, 1), got 1"),
        ({"n_startup_trials": 2}, "n_startup_trials must be at least 3, got 2"),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be at least 0, got -1"),
    ):
        with pytest.raises(ConfigError) as error:
            ForecastPruner(**wrong)  # type: ignore[arg-type]
        assert str(error.value) == message
    assert (ForecastPruner()._chance, ForecastPruner()._n_startup_trials) == (0.1, 4)


def test_pruners_by_name() -> None:
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
    assert type(sampler._base_sampler) is QuickTPESampler
    return sampler._base_sampler


def test_samplers_by_name() -> None:
    """The class, the seed and all arguments of each sampler."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made: list[Any] = [make_sampler(name, space(*BLEND), 5) for name in ("random", "tpe", "gp", "cmaes")]
        grouped = tpe_in(make_sampler("tpe", space(*BLEND, conditional=True), 5))
    random, recent, handover, cmaes = made
    tpe = tpe_in(recent)
    gp = handover._first
    assert [type(one) for one in (random, tpe, gp, cmaes)] == [RandomSampler, QuickTPESampler, GPSampler, CmaEsSampler]
    assert isinstance(handover._then, RecentSampler)
    expected = float(RandomSampler(seed=5)._rng.rng.random())
    assert [state(random), state(tpe), state(gp)] == [expected] * 3
    assert cmaes._cma_rng.rng.random() == CmaEsSampler(seed=5)._cma_rng.rng.random()
    assert (cmaes._n_startup_trials, cmaes._warn_independent_sampling) == (1, False)
    assert (gp._n_startup_trials, gp._warn_independent_sampling) == (10, False)
    for sampler, group in ((tpe, False), (grouped, True)):
        found = [getattr(sampler, f"_{name}") for name in ("n_startup_trials", "n_ei_candidates", "multivariate")]
        assert found == [10, 24, True]
        assert (sampler._group, sampler._constant_liar) == (group, True)


def test_the_blend_decides_the_sampler() -> None:
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


def test_wrong_samplers() -> None:
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
