"""Samplers by name: the hand-over from a Gaussian process to TPE, and pickles that are not read."""

import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from dropopt.config import ConfigError
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


def test_every_call_reaches_the_sampler_of_the_trial():
    """From its start to its end, also while trials of the other sampler are running."""
    samplers_ = [Mock(spec=BaseSampler), Mock(spec=BaseSampler)]
    sampler = HandoverSampler(*samplers_, 1)
    study = optuna.create_study(sampler=RandomSampler())
    _, done, more = (study.ask() for _ in range(3))
    trials = study.get_trials()
    sampler.before_trial(study, trials[0])
    for trial in (done, more):
        study.tell(trial, 1.0)
    number = study.ask().number
    late = study.get_trials()[number]
    sampler.before_trial(study, late)
    for trial, chosen, other in ((trials[0], *samplers_), (late, *samplers_[::-1])):
        chosen.before_trial.assert_called_once_with(study, trial)
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
    sampler.reseed_rng()
    assert [one.reseed_rng.call_count for one in samplers_] == [1, 1]
    assert str(sampler) == f"HandoverSampler({samplers_[0]}, {samplers_[1]})"


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
    for url in (
        "sqlite:///mine.db",
        "sqlite:///mine.db?timeout=3",
        "sqlite:///none.db",
        "s.log",
        f"{tmp_path}/mine.db",
    ):
        samplers.refuse_pickles("cmaes", url)
    beyond = "mine.db/below"  # not a folder
    for url in (
        "postgresql://h/mine.db",
        "redis://h",
        "sqlite:///shared.db",
        "sqlite:///group.db",
        "shared.db",
        beyond,
    ):
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
