"""What a trial that continues another one, or runs it again, takes over."""

from datetime import datetime

import optuna
import pytest
from ledgers import ledger_of
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.config import ConfigError
from dropopt.seeds import derived_seed
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.store import keys
from dropopt.study.store.continuation import enqueue, last_attempt, latest
from dropopt.study.store.ledger import SEED_BITS
from dropopt.study.store.retries import LostRetries, attempt, enqueue_again, may_run_again, parameters, root

OWN = {"params": {"r0": 0.2}, "distributions": {"r0": FloatDistribution(0, 1)}}


def test_a_retry_is_continued_as_its_first_attempt():
    """The seed of a training and its checkpoint are named by the first attempt, so both stay the same."""
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.FAIL, **OWN))
    chain = {keys.RETRY_OF: 0, keys.PREVIOUS: 0, keys.ATTEMPT: 2}
    reports = {1: 0.9, 2: 0.8}
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=chain, intermediate_values=reports, **OWN))
    waiting = enqueue(study, 1)
    assert (waiting.number, waiting.user_attrs[keys.CONTINUES], root(waiting)) == (2, 1, 0)
    assert parameters(waiting) == {"r0": 0.2}
    assert waiting.intermediate_values == reports
    assert last_attempt(study, 1) is None, "it waits"
    study.ask()
    assert last_attempt(study, 1).number == 2


def test_a_continuation_that_runs_already_is_named_with_its_worker():
    """With the time of the last sign of life, which tells whether the worker has died on another machine."""
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.PRUNED, **OWN))
    lease = {"process": {"pid": 7, "host": "node5"}, "time": datetime(2026, 1, 2, 3, 4, 5).timestamp()}
    for known in ({}, {keys.LEASE: lease}):
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={keys.CONTINUES: 0} | known))
    said = "process 7 on node5.*, last heard from at 2026-01-02 03:04:05; .* if the worker is gone, dropopt worker"
    with pytest.raises(ConfigError, match=f"trial 2 is continuing trial 0 now, .*{said}"):
        latest(study, 0)


def test_a_trial_whose_worker_dies_is_begun_three_times():
    """Interruptions do not count, and are not limited. Without parameters there is nothing to run again."""
    study = optuna.create_study()
    study.enqueue_trial({"r0": 0.2})
    for reason in (keys.INTERRUPTED, keys.ABANDONED, keys.INTERRUPTED):
        _fail(study, reason)
        enqueue_again(study, study.trials[-1])
    assert [attempt(trial) for trial in study.trials] == [1, 1, 2, 2]
    trials = [create_trial(state=TrialState.RUNNING, user_attrs={keys.ATTEMPT: number}, **OWN) for number in (1, 2, 3)]
    assert [may_run_again(trial, keys.ABANDONED) for trial in trials] == [True, True, False]
    assert may_run_again(trials[2], keys.INTERRUPTED)
    assert not may_run_again(create_trial(state=TrialState.RUNNING), keys.INTERRUPTED)


@pytest.mark.parametrize("reason", ["time limit", "out of memory"])
@pytest.mark.parametrize("key", [keys.ANCHOR, keys.PORTFOLIO, keys.SOURCE])
def test_a_continuation_is_named_as_the_trial_that_it_continues(key, reason):
    """So the best trial is compared with an anchor that a limit ended, once that has been continued."""
    study = optuna.create_study()
    facts = {key: "its name", keys.REASON: reason}
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=facts, **OWN))
    assert enqueue(study, 0).user_attrs[key] == "its name"


def test_a_lost_retry_is_due_after_one_to_two_intervals():
    """At a time that differs between workers, and that is drawn anew if the retry was enqueued in the meantime."""
    trial = create_trial(state=TrialState.FAIL)
    times = set()
    for _ in range(50):
        lost = LostRetries(interval=10.0)
        assert lost.due([trial], 0.0) == lost.due([trial], 9.99) == []
        times.add(next(time for time in range(10, 21) if lost.due([trial], time)))
        assert lost.due([], 21.0) == lost.due([trial], 22.0) == []
    assert len(times) > 1


def test_a_trial_and_its_continuation_are_evidence_of_one_trial():
    """Also if the continuation was interrupted, or failed and was begun anew."""
    study = optuna.create_study()
    weights = {"w_adaptive": 0.2, "w_pfid": 0.8}
    own = {"params": weights, "distributions": dict.fromkeys(weights, FloatDistribution(0, 1))}
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.9}, **own))
    enqueue(study, 0)
    _fail(study, keys.INTERRUPTED)
    enqueue_again(study, study.trials[-1])
    _fail(study, "time limit")
    enqueue(study, 0)
    _fail(study, keys.INTERRUPTED)
    enqueue_again(study, study.trials[-1])
    trial = study.ask()
    study.tell(trial, sum(trial.suggest_float(name, 0, 1) for name in weights))
    assert [trial.number for trial in counted_trials(study.trials, weights)] == [4]


def _fail(study, reason):
    trial = study.ask()
    trial.set_user_attr(keys.REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def test_epochs_that_are_trained_again_replace_the_inherited_reports():
    """Up to the last one. The trial is not pruned there: an earlier attempt has passed these epochs."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    ledger = ledger_of(study)
    kinds = {"fixed_params": {"kind": "dropout"}}
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=kinds, intermediate_values={1: 0.9, 2: 0.8}))
    trial, _ = ledger.ask()
    pruned = [ledger.report(trial, 0.5 + epoch, epoch=epoch, epochs=5) for epoch in (1, 2, 3)]
    assert pruned == [False, False, True]
    assert study.trials[0].intermediate_values == {1: 1.5, 2: 2.5, 3: 3.5}


def test_a_retry_keeps_the_training_seed_of_a_study_that_is_resumed_with_another_seed():
    """Otherwise its checkpoint and its inherited reports would be those of another training."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    first, run = ledger_of(study).ask()
    study.tell(first, state=TrialState.FAIL)
    enqueue_again(study, study.trials[0])
    later = ledger_of(study, seed=1)
    (_, again), (_, new) = later.ask(), later.ask()
    assert again.train == run.train
    assert new.train.seed == derived_seed(1, "train", 2, bits=SEED_BITS)


@pytest.mark.parametrize(
    ("state", "facts", "message"),
    [
        ("COMPLETE", {}, r"^trial 0 is complete: value 0\.5000; only a pruned trial can be continued$"),
        ("RUNNING", {}, r"^trial 0 is run by dropopt run and dropopt worker; type the command of the study$"),
        ("WAITING", {}, r"^trial 0 is run by dropopt run and dropopt worker; type the command of the study$"),
        ("FAIL", {"reason": "abandoned"}, r"^trial 0 is run by dropopt run and dropopt worker; type the command"),
        ("FAIL", {"reason": "Broken", "message": "bad"}, r"^trial 0 failed and cannot be continued: Broken: bad$"),
        ("FAIL", {"reason": "Broken"}, r"^trial 0 failed and cannot be continued: Broken: $"),
        ("PRUNED", None, r"^trial 0 has no parameters; it cannot be continued$"),
    ],
)
def test_a_trial_that_cannot_be_continued_is_refused_with_the_reason(state, facts, message):
    """Only one that was pruned, or ended by a limit, can."""
    study, own = optuna.create_study(), {} if facts is None else OWN
    value = 0.5 if state == "COMPLETE" else None
    study.add_trial(create_trial(state=TrialState[state], value=value, user_attrs=facts or {}, **own))
    for ask in (latest, enqueue):
        with pytest.raises(ConfigError, match=message):
            ask(study, 0)
    assert len(study.trials) == 1


def test_a_continuation_is_enqueued_once_and_begun_anew_after_a_failure():
    """One that was doubled and given back counts for nothing; a complete one ends it."""
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.PRUNED, **OWN))
    assert [enqueue(study, 0).number for _ in range(3)] == [1, 1, 1]
    _fail(study, keys.GIVEN_BACK)
    assert latest(study, 0).number == 0
    assert last_attempt(study, 0) is None
    assert enqueue(study, 0).number == 2
    assert study.trials[2].user_attrs[keys.PREVIOUS] == 0
    _fail(study, "time limit")
    assert (latest(study, 0).number, last_attempt(study, 0).number) == (2, 2)
    assert enqueue(study, 0).user_attrs[keys.PREVIOUS] == 2
    study.tell(study.ask(), 0.25)
    with pytest.raises(ConfigError, match=r"^trial 3 has continued trial 0 already: value 0\.2500$"):
        enqueue(study, 0)


def test_a_continuation_whose_worker_tells_no_time_is_named_without_one():
    """Its lease was damaged."""
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.PRUNED, **OWN))
    facts = {keys.CONTINUES: 0, keys.LEASE: {"time": "now"}}
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=facts))
    line = r"^trial 1 is continuing trial 0 now, run by its worker; follow it with: dropopt status; if the worker is"
    with pytest.raises(ConfigError, match=line):
        latest(study, 0)
