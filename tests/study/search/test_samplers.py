"""Samplers by name: the hand-over from a Gaussian process to TPE."""

import optuna
import pytest
from optuna.samplers import RandomSampler

from dropopt.study.define.space import Space
from dropopt.study.search import samplers
from dropopt.study.search.handover import HandoverSampler


class Counting(RandomSampler):
    """A random sampler that remembers the trials that it sampled for."""

    def __init__(self):
        super().__init__(seed=0)
        self.sampled = []

    def sample_independent(self, study, trial, param_name, param_distribution):
        """Sample at random, and remember the trial."""
        self.sampled.append(trial.number)
        return super().sample_independent(study, trial, param_name, param_distribution)


def test_the_second_sampler_takes_over_above_the_limit():
    """All parameters of a trial come from one sampler, and the change is announced once."""
    first, second, notices = Counting(), Counting(), []
    sampler = HandoverSampler(first, second, 2, lambda: notices.append("now"))
    study = optuna.create_study(sampler=sampler)
    waiting = study.ask()
    for _ in range(5):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
    waiting.suggest_float("x", 0, 1)
    study.tell(waiting, 0.5)
    assert first.sampled == [1, 2, 3, 0]
    assert second.sampled == [4, 5]
    assert notices == ["now"]
    assert not sampler._chosen


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
    monkeypatch.setattr(
        study.sampler._first, "sample_relative", lambda *_: pytest.fail("the Gaussian process was fitted")
    )
    space.suggest(study.ask(), 10)
    assert notices == ["the sampler gp is slow above 12 complete trials, so tpe is used from now on"]
