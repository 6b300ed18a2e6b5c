"""The mirror: what it stores equals what stock Optuna stores, and what it reads is current."""

import math
import os
import random

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from dropopt.study.store import mirror as mirror_module
from dropopt.study.store import rdb_reading
from dropopt.study.store.cached_trials import ANY_AGE
from dropopt.study.store.errors import StorageError
from dropopt.study.store.journal_lock import marker
from dropopt.study.store.mirror import Mirror
from dropopt.study.store.opening import close, open_storage
from dropopt.study.store.queries import count, ranked
from dropopt.study.store.reading import changed
from dropopt.study.store.retries import without_replacement
from dropopt.study.store.trial_budget import budget_used
from dropopt.study.store.trial_summary import LEADERS, TrialSummary

DISTRIBUTIONS = {
    "x": optuna.distributions.FloatDistribution(0.1, 10, log=True),
    "n": optuna.distributions.IntDistribution(1, 9),
    "c": optuna.distributions.CategoricalDistribution([None, True, 3, "four", 0.5]),
}


@pytest.fixture(params=["sqlite", "journal", "memory"])
def url(request, tmp_path):
    return {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": str(tmp_path / "s.log"), "memory": ""}[request.param]


def made(url):
    """A study on a mirror of the storage, and the storage."""
    storage = open_storage(url) if url else optuna.storages.InMemoryStorage()
    mirror = Mirror(storage)
    return optuna.create_study(study_name="s", storage=mirror, load_if_exists=True), mirror, storage


def fill(study, together):
    """A trial of each kind, with everything that a trial may have."""
    study.enqueue_trial({"x": 0.5}, user_attrs={"note": "enqueued"})
    for number in range(4):
        trial = study.ask()
        with together(trial._trial_id):
            trial.suggest_float("x", 0.1, 10, log=True)
            trial.suggest_int("n", 1, 9)
            trial.suggest_categorical("c", [None, True, 3, "four", 0.5])
            trial.set_user_attr("config", {"nested": [1, 2.5, None], "name": "ü"})
        for step, value in enumerate((0.5, math.inf, -math.inf, math.nan, 1e-300)[: number + 2]):
            trial.report(value, step)
        trial.set_user_attr("config", {"changed": number})
        if number < 2:
            study.tell(trial, 0.1 * number)
        elif number == 2:
            study.tell(trial, state=TrialState.FAIL)
    study.add_trial(create_trial(params={"x": 1.0}, distributions={"x": DISTRIBUTIONS["x"]}, value=7.0))


def content(trials):
    """Everything about trials but their times, as text: NaN differs from itself."""
    fields = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    return [
        ([getattr(trial, name) for name in fields], repr(trial.intermediate_values), trial.datetime_complete is None)
        for trial in trials
    ]


def test_it_stores_and_knows_what_optuna_stores(url):
    """Trials, parameters, attributes, reports, states and values: in the mirror, and read again from the storage."""
    from contextlib import nullcontext

    study, mirror, storage = made(url)
    fill(study, mirror.together)
    known = study.get_trials()
    if url:
        close(storage)
        storage = open_storage(url)
    again = optuna.load_study(study_name="s", storage=storage).get_trials()
    stock = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    fill(stock, lambda _: nullcontext())
    assert content(known) == content(again)
    for one, other in zip(again, stock.get_trials(), strict=True):
        assert one.params.keys() == other.params.keys()
        assert (one.state, one.user_attrs, one.system_attrs) == (other.state, other.user_attrs, other.system_attrs)
        assert repr((one.values, one.intermediate_values)) == repr((other.values, other.intermediate_values))


def test_nothing_is_stored_about_a_trial_that_another_process_has_ended(url):
    """Neither reports nor a second result; the next call is not disturbed."""
    study, mirror, storage = made(url)
    trial = study.ask()
    optuna.load_study(study_name="s", storage=storage).tell(trial.number, 1.0)

    def end():
        with mirror.together(trial._trial_id):
            mirror.set_trial_user_attr(trial._trial_id, "late", 1)
            mirror.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
            mirror.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [2.0])

    with pytest.raises(UpdateFinishedTrialError):
        end()
    other = study.ask()
    other.report(0.5, 1)
    first, second = study.get_trials()
    assert (first.value, first.user_attrs, first.intermediate_values) == (1.0, {}, {})
    assert second.intermediate_values == {1: 0.5}


def test_changes_by_other_processes_are_seen(url):
    """At once; or, inside a block that allows it, from the next block on."""
    study, mirror, storage = made(url)
    elsewhere = optuna.load_study(study_name="s", storage=open_storage(url) if url else storage)
    running = study.ask()
    assert len(study.get_trials(deepcopy=False)) == 1
    elsewhere.enqueue_trial({"x": 1.0})
    with mirror.aged(ANY_AGE):
        assert len(study.get_trials(deepcopy=False)) == 1
    assert len(study.get_trials(deepcopy=False)) == 2
    elsewhere.tell(running.number, state=TrialState.FAIL)
    assert study.get_trials(deepcopy=False)[0].state == TrialState.FAIL


def test_incompatible_distributions_are_refused(url):
    """As Optuna does, although the parameters are stored later; the line names the parameter and what to type."""
    study, mirror, _ = made(url)
    study.tell(study.ask({"x": DISTRIBUTIONS["c"]}), 1.0)
    trial = study.ask()
    line = "the parameter 'x' is of another kind .*; give another --study-name"
    with mirror.together(trial._trial_id), pytest.raises(StorageError, match=line):
        trial.suggest_float("x", 0, 1)


def test_a_sqlite_file_is_read_again_only_if_another_connection_has_written(tmp_path, monkeypatch):
    """Own trials, reports and results need no reading."""
    study, *_ = made(f"sqlite:///{tmp_path}/s.db")
    study.get_trials(deepcopy=False)
    reads = []
    monkeypatch.setattr(mirror_module, "changed", lambda *a: reads.append(1) or changed(*a))
    for _ in range(3):
        trial = study.ask(DISTRIBUTIONS)
        trial.report(1.0, 1)
        study.tell(trial, 1.0)
        assert len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) == trial.number + 1
    assert reads == []


def test_only_what_may_have_changed_is_read(url, monkeypatch):
    """And it equals what Optuna reads, whatever the trials of another worker do; so does what is derived from it."""
    study, _, storage = made(url)
    elsewhere = optuna.load_study(study_name="s", storage=open_storage(url) if url else storage)
    read, summary, draw = [], TrialSummary(), random.Random(0)
    monkeypatch.setattr(mirror_module, "changed", lambda *a: read.append(changed(*a)) or read[-1])
    monkeypatch.setattr(rdb_reading, "IDS", 3)
    running, facts = (
        [],
        ({}, {"reason": "abandoned", "retry": True}, {"reason": "interrupted"}, {"reason": "NotFinite"}),
    )
    for turn in range(30):
        mine = study if turn % 2 else elsewhere
        if turn % 3 == 0:
            lost = without_replacement(study.get_trials(deepcopy=False))
            mine.enqueue_trial({"x": 0.5}, user_attrs={"previous": lost[0].number} if lost else {})
        for _ in range(8 if turn == 20 else 0):  # more than are read with one statement
            elsewhere.enqueue_trial({"x": 0.5})
        running.append((mine, mine.ask(DISTRIBUTIONS)))
        running[-1][1].report(draw.choice([0.5, math.inf, math.nan]), 1)
        if len(running) > 7:
            ender, trial = running.pop(draw.randrange(len(running)))
            state = draw.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            if state == TrialState.FAIL:
                for key, fact in draw.choice(facts).items():
                    trial.set_user_attr(key, fact)
            ender.tell(trial, draw.random() if state == TrialState.COMPLETE else None, state)
        known, stock = study.get_trials(deepcopy=False), elsewhere.get_trials(deepcopy=False)
        assert content(known) == content(stock)
        for states in ((TrialState.COMPLETE,), (TrialState.RUNNING, TrialState.WAITING)):
            found = study.get_trials(deepcopy=False, states=states)
            assert [trial.number for trial in found] == [trial.number for trial in stock if trial.state in states]
        summary.update(known)
        assert (summary.budget_used(), summary.counts()) == (budget_used(known), count(known))
        assert summary.without_replacement() == without_replacement(known)
        assert summary.leaders == ranked(known)[:LEADERS]
    assert max(map(len, read[1:])) < 20 < len(known)
    assert all(len({trial.number for trial in found}) == len(found) for found in read), "each trial is read once"


def test_the_lock_of_a_dead_process_does_not_hold_up_a_journal(tmp_path):
    """The link of a process that was killed while it wrote is removed at once; a living one's lock is respected."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "s.log"
    study, *_ = made(str(path))
    os.symlink(marker(path), f"{path}.lock")
    study.set_user_attr("a", 1)
    assert not os.path.lexists(f"{path}.lock")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match=r"process .* holds the lock of"):
            study.set_user_attr("a", 2)
    study.set_user_attr("a", 3)
    assert study.user_attrs == {"a": 3}


def test_a_trial_is_read_although_another_worker_started_one_in_between(url):
    """A reader that accepts trials of any age still sees its own ones, whose numbers are beyond what it has read."""
    study, mirror, storage = made(url)
    study.ask()
    assert len(study.get_trials(deepcopy=False)) == 1
    other = optuna.load_study(study_name="s", storage=Mirror(storage))
    other.ask()
    with mirror.aged(ANY_AGE):
        own = study.ask()
        assert [trial.number for trial in study.get_trials(deepcopy=False)] == [0, 1, 2]
        assert study.get_trials(deepcopy=False)[own.number]._trial_id == own._trial_id
