"""What every pruner of Optuna keeps to, checked on the forecast pruner: directions, scales, reports, workers."""

import math
import warnings

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.study import ForecastPruner

EARLY = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
FINAL = EARLY / 2 + np.array([0.25, -0.25, 0.125, -0.25, 0.125, 0.0, -0.125, 0.375])
#: Values at the step of the trial that may be pruned, from the best to far behind.
HERE = np.array([-0.5, 0.5, 1.0, 2.0, 4.0, 7.5, 20.0])


def decisions(direction, transform):
    """For each value of HERE, whether a trial with it is pruned, if all values are transformed."""
    study = optuna.create_study(direction=direction)
    for early, final in zip(EARLY, FINAL, strict=True):
        study.add_trial(create_trial(value=transform(final), intermediate_values={1: transform(early)}))
    pruner = ForecastPruner()
    return [
        pruner.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values={1: transform(here)}))
        for here in HERE
    ]


EXPECTED = [False, False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("step", "offset"), [(2.0**-1000, 0.0), (2.0**-30, 1e6), (2.0**-30, -1e6), (1.0, 0.0), (2.0**1019, 0.0)]
)
def test_decisions_depend_neither_on_the_scale_nor_on_the_direction(step, offset):
    """Small differences of large numbers, numbers near the largest and near 0: the same trials are pruned."""
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decisions("minimize", lambda x: offset + step * x) == EXPECTED
        assert decisions("maximize", lambda x: offset - step * x) == EXPECTED


def test_positive_values_are_compared_by_their_ratios():
    """Losses over hundreds of powers of ten: only ratios count, and a product with a constant changes nothing."""
    for factor in (1e-280, 1.0, 1e200):
        assert decisions("minimize", lambda x, factor=factor: factor * 10.0 ** (4 * x)) == EXPECTED


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_of_two_workers_prunes_and_keeps_its_best_trial(tmp_path, direction):
    """Reports may come in any order of steps; trials are pruned in both directions, but never the best one."""
    sign = 1 if direction == "minimize" else -1
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in (3, 1, 2, 5):
            trial.report(sign * (x + 1 / (step + 1)), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * x

    study = optuna.create_study(
        storage=storage,
        direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=ForecastPruner(),
    )
    study.optimize(objective, n_trials=25, n_jobs=2)
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_trial.params["x"] == min(trial.params["x"] for trial in study.trials)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_decide_nothing_about_others(bad):
    """Reports and results that are not finite are as if absent, and a trial that reports one is pruned."""
    study = optuna.create_study()
    for early, final in zip(EARLY, FINAL, strict=True):
        study.add_trial(create_trial(value=final, intermediate_values={1: early}))
        study.add_trial(create_trial(value=final, intermediate_values={1: bad}))
    study.add_trial(create_trial(state=TrialState.FAIL, intermediate_values={1: -100.0}))
    study.add_trial(create_trial(state=TrialState.PRUNED, value=-100.0, intermediate_values={1: -100.0}))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={1: -100.0}))
    pruner = ForecastPruner()
    found = [
        pruner.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values={1: here})) for here in HERE
    ]
    assert found == EXPECTED
    assert pruner.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values={1: bad}))
    assert len({trial.state for trial in study.trials}) == 4  # nothing was changed
