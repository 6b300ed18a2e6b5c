"""The applied drop rate in the answer to "how much"."""

import numpy as np
import optuna
import pytest

from dropopt.config import RunConfig
from dropopt.study import study_effects
from dropopt.study.define.space import Space
from dropopt.study.effects.applied import applied_effect
from dropopt.study.effects.effects import needed_trials
from dropopt.study.effects.factors import factors_of
from dropopt.study.run.messages import Report
from dropopt.study.run.running import Running
from dropopt.study.store.keys import APPLIED
from dropopt.study.store.search_ledger import SearchLedger


def searched(*, record, trials=40, rate="r0"):
    """A study whose loss depends on the applied rate alone: r0 times a number between 0.5 and 1.5, by the pattern."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)

    def loss(trial):
        shares = {"low": 0.5, "middle": 1.0, "high": 1.5}
        applied = shares[trial.suggest_categorical("pattern", [*shares])] * trial.suggest_float(rate, 0.0, 0.6)
        if trial.number < record:
            trial.set_user_attr(APPLIED, applied)
        return float(np.exp(8 * (applied - 0.2) ** 2 + 0.02 * rng.normal()))

    study.optimize(loss, n_trials=trials)
    return study


@pytest.mark.parametrize("rate", ["r0", "p"])
def test_the_best_applied_rate_is_found(rate):
    """The best applied rate is known, although the best r0 differs from pattern to pattern."""
    effects = study_effects(searched(record=40, rate=rate))
    optimum = effects.applied.profile.optimum
    assert optimum.low <= 0.2 <= optimum.high
    assert optimum.high - optimum.low < 0.1
    text = effects.answers[1].text
    assert f"An applied rate (mean over places and epochs) of {optimum.value:.3g} (90%: " in text
    assert f"{effects.as_dict()['applied_rate']['best']['value']:.3g}" in text


def test_rates_that_do_not_matter_are_not_claimed():
    """Without an effect, no best rate is named."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(1)

    def loss(trial):
        trial.set_user_attr(APPLIED, trial.suggest_float("r0", 0.0, 0.6) * 0.9)
        return float(np.exp(0.1 * rng.normal()))

    study.optimize(loss, n_trials=20)
    effects = study_effects(study)
    assert not effects.answers[1].found
    assert "the applied rate (" in effects.answers[1].text


@pytest.mark.parametrize("record", [0, 31])
def test_trials_of_earlier_versions_recorded_no_rate(record):
    """If more than a fifth of the trials has no rate, the answer is about r0 alone."""
    effects = study_effects(searched(record=record))
    assert effects.applied is None
    assert "applied rate" not in effects.answers[1].text
    assert effects.as_dict()["applied_rate"] is None


def test_few_trials_without_a_rate_are_left_out():
    """The others say enough; unusable values of another program count as none. The negative maximised is the same."""
    study = searched(record=36)
    trials = study.get_trials()
    trials[0].user_attrs[APPLIED] = "0.2"
    found = applied_effect(trials, False)
    assert found.profile.optimum.value == pytest.approx(0.2, abs=0.05)
    for trial in trials:
        trial.value = -trial.value
    assert applied_effect(trials, True) == found


def test_the_rates_of_too_few_trials_are_not_told():
    """As nothing else is claimed of them."""
    needed = needed_trials(factors_of(searched(record=40).trials))
    for trials in (needed - 1, needed):
        assert (study_effects(searched(record=trials, trials=trials)).applied is None) == (trials < needed)


def test_trials_record_their_mean_applied_rate():
    """It is the mean over places and epochs, of complete and of pruned trials; absent without places."""
    space = Space.load("dropout").bound(RunConfig())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ledger = SearchLedger(study, space, RunConfig.parse({"engine": {"kind": "dropout"}}), 0, 2)
    losses = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "smoothed_loss": 1.0, "objective": 1.0}
    for rates in ({"a": 0.1, "b": 0.3}, {}):
        trial, run = ledger.ask()
        running = Running(trial, run)
        for epoch in (1, 2):
            more = {place: rate + 0.1 * (epoch - 1) for place, rate in rates.items()}
            running.keep(Report(trial=0, epoch=epoch, epochs=2, rates=more, **losses))
        ledger.prune(trial, accuracy=0.5, seconds=1.0, applied=running.applied)
        trial, _ = ledger.ask()
        scores = {"accuracy": 0.5, "best_loss": 1.0, "best_epoch": 1, "seconds": 1.0}
        ledger.complete(trial, 1.0, **scores, applied=running.applied)
    assert [trial.user_attrs.get(APPLIED) for trial in study.trials] == [pytest.approx(0.25)] * 2 + [None] * 2
