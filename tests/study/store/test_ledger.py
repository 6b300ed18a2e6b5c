"""What a ledger tells of the epochs of a trial, and how it starts and ends trials."""

import math
from contextlib import nullcontext

import optuna
import pytest
from ledgers import ledger_of
from optuna.trial import TrialState, create_trial

from dropopt.study.store.errors import TrialEndedError
from dropopt.study.store.keys import ACCURACY, ANCHOR, BEST_EPOCH, BEST_LOSS, CONTINUES, REASON, RETRY, SECONDS
from dropopt.study.store.retries import without_replacement
from dropopt.study.store.trial_budget import Decision, decide


@pytest.mark.parametrize(
    ("attributes", "pruned"),
    [({}, [True, True, False]), ({ANCHOR: "no dropout"}, [False] * 3), ({CONTINUES: 0}, [False] * 3)],
)
def test_a_trial_is_not_pruned_after_its_last_epoch(attributes, pruned):
    """Its cost is paid by then. Anchors and continuations are never pruned."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    ledger = ledger_of(study)
    kinds = {"fixed_params": {"kind": "dropout"}}
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=kinds, user_attrs=attributes))
    trial, _ = ledger.ask()
    assert [ledger.report(trial, 0.5, epoch=epoch, epochs=3) for epoch in (1, 2, 3)] == pruned


@pytest.fixture
def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def test_a_trial_that_has_begun_is_not_given_back(study):
    """Its worker has counted the trials; one whose worker has not done so yet is given back, although it came first."""
    study.ask()
    assert ledger_of(study).ask(2) is not None
    assert decide(study.trials, 0, 1) == Decision.GIVE_BACK


@pytest.mark.parametrize("failing", ["infer_relative_search_space", "sample_independent"])
def test_a_trial_whose_sampler_fails_does_not_stay_running(monkeypatch, failing):
    """It is no failure of its configuration, and what the sampler raised ends the session."""

    class Sampler(optuna.samplers.RandomSampler):
        pass

    def fail(*_):
        raise ValueError("singular matrix")

    setattr(Sampler, failing, fail)
    study = optuna.create_study(sampler=Sampler(seed=0))
    other = study.ask() if failing == "sample_independent" else None
    with pytest.raises(ValueError, match="singular matrix"):
        ledger_of(study).ask()
    *before, trial = study.trials
    assert (trial.state, trial.user_attrs[REASON]) == (TrialState.FAIL, "abandoned")
    assert trial.user_attrs["message"] == "the sampler failed: ValueError('singular matrix')"
    assert [one.state for one in before] == [TrialState.RUNNING] * (other is not None)


def test_a_trial_that_was_enqueued_with_a_value_outside_of_the_space_fails_alone(study):
    """As a failure of this trial, which is not run again; the next one begins."""
    study.enqueue_trial({"kind": "nothing"})
    ledger = ledger_of(study)
    trial, run = ledger.ask()
    assert run is None
    assert study.trials[0].user_attrs[REASON] == "ValueError"
    assert ledger.why_not_valid(trial).startswith(
        "it was enqueued with a value that is not in the space: 'nothing' not in"
    )
    assert (trial.number, study.trials[0].state, without_replacement(study.trials)) == (0, TrialState.FAIL, [])
    assert ledger.ask()[1] is not None


def test_an_interrupted_trial_is_to_run_again(study):
    """One that was enqueued waits at once, before new trials start; the others are enqueued when a worker resumes."""
    study.enqueue_trial({"kind": "dropout"})
    ledger = ledger_of(study)
    for trial in [ledger.ask()[0], ledger.ask()[0]]:
        ledger.interrupt(trial, "Ctrl-C")
    facts = {REASON: "interrupted", RETRY: True, "message": "Ctrl-C"}
    assert [facts.items() <= trial.user_attrs.items() for trial in study.trials] == [True, True, False]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]
    assert [trial.number for trial in without_replacement(study.trials)] == [1]


@pytest.mark.parametrize(
    ("state", "value", "accuracy", "own"),
    [
        (TrialState.COMPLETE, 0.5, 0.75, True),
        (TrialState.COMPLETE, 0.6, 0.75, False),
        (TrialState.COMPLETE, 0.5, 0.7, False),
        (TrialState.PRUNED, None, 0.75, False),
    ],
)
def test_a_result_that_is_stored_already_is_the_trial_s_own_if_it_is_the_same(study, state, value, accuracy, own):
    """A server may store a result, and restart before it answers; another result is that of another process."""
    ledger = ledger_of(study)
    trial, _ = ledger.ask()
    scores = {"best_loss": 0.5, "best_epoch": 1, "seconds": 1.0}
    stored = {ACCURACY: accuracy, BEST_LOSS: 0.5, BEST_EPOCH: 1, SECONDS: 1.0}
    for key, score in stored.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, score)
    study.tell(trial.number, value, state)
    with nullcontext() if own else pytest.raises(TrialEndedError):
        assert ledger.complete(trial, 0.5, accuracy=0.75, **scores) == ""
    assert study.trials[0].value == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_failure(study, value):
    ledger = ledger_of(study)
    scores = {"accuracy": 0.5, "best_loss": 0.5, "best_epoch": 1, "seconds": 1.0}
    assert ledger.complete(ledger.ask()[0], value, **scores) == "NotFinite"
    assert (study.trials[0].state, study.trials[0].user_attrs[REASON]) == (TrialState.FAIL, "NotFinite")


@pytest.mark.parametrize(
    ("enqueued", "notices"),
    [
        ({"p": 0.1, "kind": "dropout"}, []),
        ({"p": 0.9}, ["p = 0.9, which is outside of the range in space dropout; it is used"]),
        ({"q": 1}, ["q = 1, which is no parameter of space dropout and is not used; known: kind, p, schedule, lr, "]),
    ],
)
def test_values_that_were_enqueued_although_the_space_lacks_them_are_noted(study, enqueued, notices, recwarn):
    """Without the warning of Optuna, which names a file and a line of its own."""
    study.enqueue_trial(enqueued)
    found = []
    _, run = ledger_of(study, on_notice=found.append).ask()
    assert run.engine.p == enqueued.get("p", run.engine.p)
    assert len(found) == len(notices)
    for line, notice in zip(found, notices, strict=True):
        assert line.startswith(f"trial 0 was enqueued with {notice}")
    assert not [warning for warning in recwarn if "Fixed parameter" in str(warning.message)]
