"""A study as ``dropopt run`` leaves it behind, made in an instant: for tests of its page and its report."""

from __future__ import annotations

import random

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.config import RunConfig
from dropopt.facts import Facts
from dropopt.study.store import keys
from dropopt.study.store.history import History

EPOCHS = 6
FACTS = Facts({"train": 80, "validation": 10, "test": 10}, [3, 32, 48], 4, 0.45, 123_456, ["conv1", "conv2"], 1)
SPACE = {
    "r0": FloatDistribution(0, 0.7),
    "lr": FloatDistribution(1e-4, 1),
    "pattern": CategoricalDistribution(["a", "b"]),
}
ANCHORS = ("no dropout", "element 0.1")


def shown_study(count, storage=None, name="photos", *, blend=True, **extra):
    """A study of ``count`` trials: two anchors, then complete, pruned and failed trials."""
    study = optuna.create_study(study_name=name, storage=storage or optuna.storages.InMemoryStorage())
    run = RunConfig.parse({"train": {"epochs": EPOCHS}}).model_dump(mode="json")
    plan = {"n_trials": count, "sampler": "auto", "pruner": "median", "seed": 0, "anchors": True}
    made = {"created": "2026-01-01T00:00:00+00:00", "python": "3.12.1", "versions": {"torch": "2.14"}, "git": None}
    facts = {keys.SPACE: "compact", keys.PLAN: plan, keys.BASE: run, keys.FACTS: FACTS.plain(), keys.CLASSES: 4}
    for key, value in (facts | {keys.MADE_WITH: made, keys.COMMAND: "dropopt run digits --seed 1"} | extra).items():
        study.set_user_attr(key, value)
    numbers = random.Random(0)
    study.add_trials([_trial(index, count, run, numbers, blend=blend) for index in range(count)])
    return study


def _trial(index, count, run, numbers, *, blend):
    last = 0.1 if index == count - 1 else 0.5 + numbers.random()
    state = TrialState.COMPLETE
    if 2 < index < count - 1 and index % 3 == 0:
        state = TrialState.PRUNED
    if index == count - 2 and count > 9:
        state = TrialState.FAIL
    epochs = EPOCHS if state == TrialState.COMPLETE else 2
    losses = {epoch: last + 2.0 / epoch**2 for epoch in range(1, epochs + 1)}
    params = {"r0": 0.3 * numbers.random(), "lr": 0.1, "pattern": "ab"[index % 2]}
    distributions = dict(SPACE)
    if blend:
        params |= {"w_adaptive": 0.1 + 0.9 * numbers.random(), "w_pfid": 0.1 + 0.9 * numbers.random()}
        distributions |= dict.fromkeys(("w_adaptive", "w_pfid"), FloatDistribution(0, 1))
    attributes = {keys.CONFIG: run, keys.LEASE: {"worker": "a"}, keys.WORKER: "a", keys.SEED: 7, keys.EPOCHS: epochs}
    if index < len(ANCHORS) and count > len(ANCHORS) + 1:
        attributes[keys.ANCHOR] = ANCHORS[index]
    if state == TrialState.FAIL:
        attributes |= {keys.REASON: "Broken", keys.MESSAGE: "it <b>broke</b>"}
    else:
        attributes |= {
            keys.ACCURACY: 0.98765432 - 0.1 * last,
            keys.SECONDS: 1.5 + numbers.random(),
            keys.PARAMETERS: 123_456,
        }
    places = FACTS.places
    history = History(
        epochs=tuple(losses),
        train_loss=tuple(losses.values()),
        val_loss=tuple(losses.values()),
        val_accuracy=(0.5,) * epochs,
        rate_epochs=tuple(losses),
        rates={place: tuple(0.05 * (row + 1) * epoch for epoch in losses) for row, place in enumerate(places)},
        weights={"adaptive": (0.25,) * epochs, "pfid": (0.75,) * epochs} if blend else {},
    )
    return create_trial(
        state=state,
        value=None if state == TrialState.FAIL else losses[epochs],
        params=params,
        distributions=distributions,
        intermediate_values=losses,
        user_attrs=attributes,
        system_attrs={keys.HISTORY: history.plain()} if state == TrialState.COMPLETE else {},
    )
