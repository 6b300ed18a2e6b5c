"""Which trials use the budget of a study, and which one is given back if there are too many."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.study.store import trial_budget
from dropopt.study.store.keys import ABANDONED, CONTINUES, GIVEN_BACK, INTERRUPTED, LEASE, REASON
from dropopt.study.store.trial_budget import Decision, await_decision, budget_used, decide

KEEP, BACK, WAIT = Decision.KEEP, Decision.GIVE_BACK, Decision.WAIT


def study_of(*trials):
    """The trials of a study, given as states and attributes."""
    study = optuna.create_study()
    for state, attributes in trials:
        complete = state == TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=1.0 if complete else None, user_attrs=attributes))
    return study.trials


def running(count, **attributes):
    return TrialState.RUNNING, {LEASE: {"count": count}, **attributes}


def test_trials_that_have_a_result_or_may_get_one_count():
    """Not those that wait or will be run again, and not a continuation beside the trial that it continues."""
    failed = [(TrialState.FAIL, {REASON: reason}) for reason in (INTERRUPTED, ABANDONED, GIVEN_BACK)]
    assert budget_used(study_of(*failed, (TrialState.WAITING, {}), (TrialState.COMPLETE, {CONTINUES: 0}))) == 0
    failed = [(TrialState.FAIL, {REASON: "ValueError"}), (TrialState.FAIL, {})]
    assert (
        budget_used(study_of(*failed, (TrialState.COMPLETE, {}), (TrialState.PRUNED, {}), running(0), running(3))) == 6
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (5, [KEEP, KEEP, KEEP]),
        (4, [WAIT, WAIT, BACK]),
        (3, [WAIT, BACK, BACK]),
        (2, [BACK, BACK, BACK]),
        (1, [BACK, BACK, BACK]),
    ],
)
def test_the_highest_numbers_among_unchecked_trials_are_given_back(target, expected):
    """As many as are too many. Trials with lower numbers wait for that, and a confirmed one runs on."""
    trials = study_of((TrialState.COMPLETE, {}), running(0), running(0), running(0), running(1))
    assert [decide(trials, number, target) for number in (1, 2, 3)] == expected


def test_a_continuation_is_never_one_too_many():
    """It is not given back in place of another trial either."""
    trials = study_of((TrialState.PRUNED, {}), running(0), running(0, **{CONTINUES: 0}))
    assert [decide(trials, number, 1) for number in (1, 2)] == [BACK, KEEP]
    assert [decide(trials, number, 2) for number in (1, 2)] == [KEEP, KEEP]


@pytest.mark.parametrize(("decides", "reads", "expected"), [(3, 4, KEEP), (None, 101, WAIT)])
def test_the_decision_of_another_worker_is_waited_for(monkeypatch, decides, reads, expected):
    """For five seconds, in which its worker may give its trial back."""
    now, seen = [0.0], []
    monkeypatch.setattr(trial_budget.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trial_budget.time, "sleep", lambda seconds: now.__setitem__(0, round(now[0] + seconds, 6)))
    waiting = study_of(running(0), running(0))
    settled = study_of(running(0), (TrialState.FAIL, {REASON: GIVEN_BACK}))

    def read():
        seen.append(now[0])
        return settled if decides is not None and len(seen) > decides else waiting

    assert await_decision(read, 0, 1) == expected
    assert seen == [pytest.approx(0.05 * turn) for turn in range(reads)]
