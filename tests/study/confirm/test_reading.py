"""Which networks are evaluated on the test split: those of the winner, once."""

import optuna
import pytest
from confirmed_arms import run
from optuna.trial import TrialState

from dropopt.study.confirm.intervals import mean_of
from dropopt.study.confirm.reading import reading
from dropopt.study.confirm.results import Confirmed, Scores
from dropopt.study.confirm.runs import CONFIGURATION, REPEAT, Run
from dropopt.study.store.keys import READINGS

EARLIER = {"configuration": 3, "seeds": 3, "at": "an earlier day"}


def winner(trial, seeds):
    by_seed = dict.fromkeys(range(seeds), 0.3)
    return Confirmed(trial, "best", False, 0.3, Scores(by_seed, by_seed, {}, {}), mean_of([0.3] * seeds), "", 1.0)


@pytest.mark.parametrize(
    ("ended", "waiting", "again", "begins", "left"),
    [
        ([run(3, 0), run(3, 1), run(3, 2)], [], False, False, []),
        ([run(3, 0), run(3, 1), run(3, 2)], [], True, True, [0, 1, 2]),
        # One that was interrupted goes on, also with --again: no network is evaluated twice.
        ([run(3, 0)], [1, 2], False, False, [1, 2]),
        ([run(3, 0)], [1, 2], True, False, [1, 2]),
        # A network that cannot be evaluated is not tried again.
        ([run(3, 0), run(3, 1, TrialState.FAIL)], [2], False, False, [2]),
    ],
)
def test_a_reading_is_done_once_unless_asked_again(ended, waiting, again, begins, left):
    """For the configuration that it was begun for."""
    tests = optuna.create_study()
    tests.set_user_attr(READINGS, [EARLIER])
    tests.add_trials(ended)
    for repeat in waiting:
        tests.enqueue_trial({CONFIGURATION: 3, REPEAT: repeat})
    found = reading(tests, winner(3, 3), {3}, again=again)
    assert found.again == begins
    assert (found.begins, found.left) == (begins, tuple(Run(repeat, 3) for repeat in left))
    assert found.is_of(winner(3, 3))
    found.record(tests)
    assert len(tests.user_attrs[READINGS]) == 1 + begins
    assert tests.user_attrs[READINGS][-1].keys() == EARLIER.keys()


def test_another_winner_is_not_read_unasked():
    """What was read stays the result, and it is known to be of another configuration or of fewer seeds."""
    tests = optuna.create_study()
    first = reading(tests, winner(3, 2), {3, 5}, again=False)
    assert (first.begins, first.again, first.left) == (True, False, (Run(0, 3), Run(1, 3)))
    first.record(tests)
    tests.add_trials([run(3, 0), run(3, 1)])
    for other in (winner(5, 2), winner(3, 3)):
        found = reading(tests, other, {3, 5}, again=False)
        assert (found.begins, found.left, found.is_of(other)) == (False, (), False)
    asked = reading(tests, winner(5, 2), {3, 5}, again=True)
    assert (asked.readings[-1].configuration, asked.left) == (5, (Run(0, 5), Run(1, 5)))
