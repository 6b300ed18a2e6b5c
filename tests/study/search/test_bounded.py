"""The sampler and the pruner whose cost does not grow with the study."""

from unittest.mock import Mock

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import PercentilePruner
from optuna.trial import TrialState, create_trial

from dropopt.study.search.percentile import QuickPercentilePruner, _percentile
from dropopt.study.search.recent import RecentSampler

UNIT = {"x": FloatDistribution(0, 1)}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_pruner_decides_like_optunas(direction):
    """At each step of random trials, of which some are shorter or report NaN, and some are pruned."""
    draw = optuna.samplers.RandomSampler(seed=0)._rng.rng
    for percentile, startup, warmup in ((50.0, 4, 1), (25.0, 0, 0)):
        study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))
        quick, stock = QuickPercentilePruner(percentile, startup, warmup), PercentilePruner(percentile, startup, warmup)
        decisions = []
        for number in range(30):
            trial = study.ask()
            for step in range(1, 4 if number % 7 == 3 else 7):
                trial.report(float("nan") if step > 1 and draw.random() < 0.1 else draw.normal(), step)
                frozen = study.get_trials()[trial.number]
                decisions.append(quick.prune(study, frozen))
                assert decisions[-1] == stock.prune(study, frozen)
            study.tell(trial, state=TrialState.PRUNED) if decisions[-1] else study.tell(trial, draw.normal())
        assert {True, False} == set(decisions)


@pytest.mark.parametrize("percentage", [0.0, 12.5, 25.0, 50.0, 61.8, 75.0, 100.0])
def test_a_percentile_is_that_of_numpy(percentage):
    """To the last bit, for any number of values."""
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 5, 8, 99):
        values = np.sort(draw.normal(size=count))
        assert _percentile(values.tolist(), percentage) == np.percentile(values, percentage)
    assert np.isnan(_percentile([], percentage))


def test_a_pruner_serves_several_studies():
    """Each is judged by its own trials, also if they take turns, and if many trials complete at once."""
    studies = [optuna.create_study(), optuna.create_study()]
    draw, quick, stock = np.random.default_rng(0), QuickPercentilePruner(50.0, 1, 0), PercentilePruner(50.0, 1, 0)
    for turn in range(12):
        study = studies[turn % 2]
        for _ in range(turn % 4):
            reports = {1: draw.normal(), 2: draw.normal()} if draw.random() < 0.7 else {1: draw.normal()}
            study.add_trial(create_trial(value=0.0, intermediate_values=reports))
        for step, value in ((1, 0.3), (2, -0.1), (3, 0.0)):
            trial = create_trial(state=TrialState.RUNNING, intermediate_values={step: value})
            assert quick.prune(study, trial) == stock.prune(study, trial)


class Looking(optuna.samplers.RandomSampler):
    """Records the numbers of the trials that it sees, and the studies that it gets for one trial."""

    def sample_relative(self, study, trial, search_space):
        """Record them, and draw at random."""
        self.seen = [seen.number for seen in study.get_trials(deepcopy=False)]
        self.studies = [study]
        return super().sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        """Record the study."""
        self.studies.append(study)
        return super().sample_independent(study, trial, param_name, param_distribution)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_a_sampler_sees_is_the_rule(direction):
    """Written out: the best of the trials that ended before the latest, then all since the first that still runs."""
    looking, draw, limit, best = Looking(), np.random.default_rng(1), 9, 3
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(sampler=RecentSampler(looking, limit=limit, best=best), direction=direction)
    running, states = [], set()
    for number in range(60):
        running.append(study.ask(UNIT))
        trials = study.get_trials()
        if len(trials) <= limit:
            assert looking.seen == list(range(number + 1))
        else:
            earlier = len(trials) - (limit - best)
            first = next((i for i, one in enumerate(trials) if not one.state.is_finished()), earlier)
            ended = min(first, earlier)

            def cost(one):
                usable = one.state == TrialState.COMPLETE and np.isfinite(one.value)
                return sign * one.value if usable else float("inf")

            leaders = [one.number for one in sorted(trials[:ended], key=cost)[:best]]
            assert looking.seen == [*sorted(leaders), *range(ended, len(trials))]
            running[-1].suggest_float("y", 0, 1)
            assert len({id(given) for given in looking.studies}) == 1, "one choice of trials for all parameters"
            given = looking.studies[0]
            assert (given.direction, given.study_name) == (study.direction, study.study_name)
        while len(running) > 1 + number % 3:
            trial = running.pop(int(draw.integers(len(running))))
            state = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED][min(int(draw.integers(5)), 2)]
            value = float(draw.choice([draw.normal(), np.inf, -np.inf], p=[0.8, 0.1, 0.1]))
            trial.report(-99.0 * sign, 1)
            study.tell(trial, value if state == TrialState.COMPLETE else None, state)
            states.add(state)
    assert len(states) == 3
    # What is known of one study does not count in another.
    other = optuna.create_study(sampler=study.sampler, direction=direction)
    other.add_trials([create_trial(params={"x": 0.5}, distributions=UNIT, value=sign * value) for value in range(90)])
    other.ask(UNIT)
    assert looking.seen == [*range(3), *range(85, 91)]


def test_every_call_reaches_the_sampler_unchanged():
    """Below the limit, with the study itself."""
    base = Mock(spec=optuna.samplers.BaseSampler)
    sampler, study = RecentSampler(base, limit=10, best=3), optuna.create_study()
    study.ask()
    (trial,) = study.get_trials()
    calls = {
        "reseed_rng": (),
        "before_trial": (study, trial),
        "infer_relative_search_space": (study, trial),
        "sample_relative": (study, trial, UNIT),
        "sample_independent": (study, trial, "x", UNIT["x"]),
        "after_trial": (study, trial, TrialState.COMPLETE, [1.0]),
    }
    for name, arguments in calls.items():
        assert getattr(sampler, name)(*arguments) in (None, getattr(base, name).return_value)
        getattr(base, name).assert_called_once_with(*arguments)
    assert str(sampler) == f"RecentSampler({base})"
