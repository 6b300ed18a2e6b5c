"""The epochs of a trial: what is stored for the best trials."""

from itertools import pairwise
from types import SimpleNamespace

import optuna
import pytest
from ledgers import ledger_of
from optuna.trial import create_trial

from dropopt.facts import Facts
from dropopt.study.run.running import MOST_RATES, history_from
from dropopt.study.store.history import History, history_of
from dropopt.study.store.keys import EPOCHS, FACTS, HISTORY, PARAMETERS
from dropopt.study.store.trial_summary import LEADERS


def reports(count, places=2):
    """The reports of ``count`` epochs."""
    return [
        SimpleNamespace(
            epoch=epoch,
            train_loss=1 / epoch,
            val_loss=float("nan") if epoch == 1 else 2 / epoch,
            val_accuracy=0.5,
            rates={f"layer{place}": 0.1 * place for place in range(places)},
            weights={"pfid": 1.0},
        )
        for epoch in range(1, count + 1)
    ]


def test_a_history_is_read_back_as_it_was_stored():
    """A loss that is not finite is None. A trial without a history, or with another form of it, has none."""
    history = history_from(reports(3))
    assert history.epochs == history.rate_epochs == (1, 2, 3)
    assert history.val_loss[0] is None
    assert history.rates == {"layer0": (0.0,) * 3, "layer1": (0.1,) * 3}
    assert history_of(create_trial(value=1.0, system_attrs={HISTORY: history.plain()})) == history
    assert history_of(create_trial(value=1.0)) is None
    assert history_of(create_trial(value=1.0, system_attrs={HISTORY: {"epochs": [1]}})) is None
    assert history_from([]) == History()
    found = reports(3)
    del found[1].rates["layer1"]
    assert history_from(found).rates == {"layer0": (0.0,) * 3, "layer1": (0.1, 0.0, 0.1)}, "a layer that did not run"


@pytest.mark.parametrize("epochs", [46, 300])
def test_the_rates_of_a_large_network_are_thinned(epochs):
    """At most ``MOST_RATES`` numbers are stored, at even distances, the first and the last epoch among them."""
    history = history_from(reports(epochs, places=100))
    assert len(history.rates) * len(history.rate_epochs) <= MOST_RATES
    assert (history.rate_epochs[0], history.rate_epochs[-1], len(history.epochs)) == (1, epochs, epochs)
    distances = {after - before for before, after in pairwise(history.rate_epochs)}
    assert max(distances) - min(distances) <= 1


def test_only_the_best_trials_keep_their_epochs():
    """A trial keeps them if it is among the best when it ends; each trial says what it cost."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr(FACTS, Facts({"train": 9}, [1, 8, 8], 2, 0.5, 77, ["a"], 0).plain())
    ledger = ledger_of(study)
    for value in (*range(1, LEADERS + 1), 0.5, 9.0):
        trial, _ = ledger.ask()
        ledger.report(trial, 1.0, epoch=1, epochs=3)
        scores = {"accuracy": 0.5, "best_loss": 1.0, "best_epoch": 1, "seconds": 1.0}
        ledger.complete(trial, float(value), **scores, history=history_from(reports(1)))
    kept = [trial.number for trial in study.trials if history_of(trial) is not None]
    assert kept == list(range(LEADERS + 1))
    assert study.trials[0].user_attrs[EPOCHS] == 1
    assert study.trials[0].user_attrs[PARAMETERS] == 77


def test_facts_of_other_versions_are_left_out():
    """A study without facts, or with some missing, has none."""
    assert Facts.read(None) is None
    assert Facts.read({"images": {}}) is None
