"""The forecast pruner: a slow ridge regression decides the same, and what every pruner of Optuna keeps to."""

import math
import warnings

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy.stats import t as student_t

from dropopt.config import ConfigError
from dropopt.study import ForecastPruner
from dropopt.study.search.forecast import chance_to_win


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


@pytest.mark.parametrize("predictive", [-2.0, 0.0, 0.5, 3.0])
def test_the_chance_to_win_is_that_of_a_slow_regression(predictive):
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


def prunes(study, here, step=1, **options):
    """Whether a trial with the value ``here`` at ``step`` is pruned."""
    trial = create_trial(state=TrialState.RUNNING, intermediate_values={step - 1: 0.0, step: here})
    return ForecastPruner(**options).prune(study, trial)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pruning_is_a_threshold_on_the_chance(direction):
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
        for here in np.quantile(reached, [0.2, 0.35, 0.5, 0.7, 1.0]):
            given, r, f = float(here), reached, final
            if min(here, r.min(), f.min()) > 0:
                given, r, f = math.log(here), np.log(r), np.log(f)
            chance = by_leaving_one_out(given, r, f)
            for limit in (chance * 0.99, min(chance * 1.01, 0.999)):
                assert prunes(study, sign * float(here), 3, chance=limit) is (limit > chance)
        assert not prunes(study, sign * float(reached.min()), 3, chance=0.999)


EARLY = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
FINAL = EARLY / 2 + np.array([0.25, -0.25, 0.125, -0.25, 0.125, 0.0, -0.125, 0.375])
#: Values at the step of the trial that may be pruned, from the best to far behind.
HERE = np.array([-0.5, 0.5, 1.0, 2.0, 4.0, 7.5, 20.0])
EXPECTED = [False, False, False, True, True, True, True]


def study_of(transform=float, direction="minimize", count=8):
    """A study of ``count`` complete trials, with a report at step 1, whose values are transformed."""
    study = optuna.create_study(direction=direction)
    for early, final in zip(EARLY[:count], FINAL[:count], strict=True):
        study.add_trial(create_trial(value=transform(final), intermediate_values={1: transform(early)}))
    return study


def decisions(transform, direction="minimize"):
    """For each value of HERE, whether a trial with it is pruned, if all values are transformed."""
    study = study_of(transform, direction)
    return [prunes(study, transform(here)) for here in HERE]


@pytest.mark.parametrize(
    ("step", "offset"), [(2.0**-1000, 0.0), (2.0**-30, 1e6), (2.0**-30, -1e6), (1.0, 0.0), (2.0**1019, 0.0)]
)
def test_decisions_depend_neither_on_the_scale_nor_on_the_direction(step, offset):
    """Small differences of large numbers, numbers near the largest and near 0: the same trials are pruned."""
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decisions(lambda x: offset + step * x) == EXPECTED
        assert decisions(lambda x: offset - step * x, "maximize") == EXPECTED


def test_positive_values_are_compared_by_their_ratios():
    """Losses over hundreds of powers of ten: only ratios count, and a product with a constant changes nothing."""
    for factor in (1e-280, 1.0, 1e200):
        assert decisions(lambda x, factor=factor: factor * 10.0 ** (4 * x)) == EXPECTED


def test_a_slow_start_continues_where_early_values_mislead():
    """A trial that is behind early and ahead at the end continues; Optuna's median pruner would have pruned it."""
    study = optuna.create_study()
    for i in range(10):
        study.add_trial(create_trial(value=0.6 - 0.03 * i, intermediate_values={3: 1 + 0.1 * i}))
    assert not prunes(study, 2.0, 3)
    trial = create_trial(state=TrialState.RUNNING, intermediate_values={3: 2.0})
    assert optuna.pruners.MedianPruner(n_startup_trials=4).prune(study, trial)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_decide_nothing_about_others(bad):
    """Reports and results that are not finite are as if absent, and a trial that reports one is pruned."""
    study = study_of()
    for final in FINAL:
        study.add_trial(create_trial(value=final, intermediate_values={1: bad}))
    study.add_trial(create_trial(state=TrialState.FAIL, intermediate_values={1: -100.0}))
    study.add_trial(create_trial(state=TrialState.PRUNED, value=-100.0, intermediate_values={1: -100.0}))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={1: -100.0}))
    assert [prunes(study, here) for here in HERE] == EXPECTED
    assert prunes(study, bad, n_warmup_steps=9)
    assert prunes(optuna.create_study(), bad)
    assert len({trial.state for trial in study.trials}) == 4  # nothing was changed


@pytest.mark.parametrize(
    ("count", "step", "options", "expected"),
    [
        (3, 1, {}, False),
        (4, 1, {}, True),
        (3, 1, {"n_startup_trials": 3}, True),
        (8, 0, {"chance": 0.999}, False),  # a step that no complete trial reported
        (8, 1, {"n_warmup_steps": 1}, True),
        (8, 1, {"n_warmup_steps": 2}, False),
    ],
)
def test_forecasts_need_evidence(count, step, options, expected):
    """Four complete trials unless another number is given, at a step that they reported, after the warm-up."""
    study = study_of(count=count)
    assert prunes(study, 90.0, step, **options) is expected
    assert not ForecastPruner().prune(study, create_trial(state=TrialState.RUNNING))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chance": 0.0}, "chance must be in (0, 1), got 0.0"),
        ({"chance": 1}, "chance must be in (0, 1), got 1"),
        ({"n_startup_trials": 2}, "n_startup_trials must be at least 3, got 2"),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be at least 0, got -1"),
    ],
)
def test_wrong_arguments(wrong, message):
    """At least three trials; the chance is in (0, 1)."""
    with pytest.raises(ConfigError) as error:
        ForecastPruner(**wrong)
    assert str(error.value) == message
    assert (ForecastPruner()._chance, ForecastPruner()._n_startup_trials) == (0.1, 4)


def test_a_study_of_two_workers_prunes_and_keeps_its_best_trial(tmp_path):
    """Reports may come in any order of steps; trials are pruned, but never the best one."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in (3, 1, 2, 5):
            trial.report(-x - 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -x

    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler, pruner=ForecastPruner())
    study.optimize(objective, n_trials=25, n_jobs=2)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_trial.params["x"] == min(trial.params["x"] for trial in study.trials)
