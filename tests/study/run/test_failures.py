"""The number of failures in a row that ends a study."""

import pytest

from dropopt.study.run.errors import StudyError
from dropopt.study.run.failures import (
    FIRST_FAILURES,
    FIRST_STARTS,
    LATER_FAILURES,
    LATER_STARTS,
    FailureCounter,
)


def test_failures_with_the_same_cause_end_a_study():
    """A different cause or a success starts the count again; after a success the limit is higher."""
    counter = FailureCounter()
    for cause in ["A"] * (FIRST_FAILURES - 1) + ["B"] * (FIRST_FAILURES - 1):
        counter.trial_failed(cause, "bad")
    with pytest.raises(StudyError, match=f"{FIRST_FAILURES} trials in a row failed with the same error: B: bad"):
        counter.trial_failed("B", "bad")
    counter.trial_succeeded()
    for _ in range(LATER_FAILURES - 1):
        counter.trial_failed("B", "bad")
    with pytest.raises(StudyError, match=f"{LATER_FAILURES} trials"):
        counter.trial_failed("B", "bad")


def test_trainers_that_die_before_they_are_ready_end_a_study():
    """The limit is for trainers in a row, and higher once one has been ready: then the cause is outside."""
    never = FailureCounter()
    for _ in range(FIRST_STARTS - 1):
        never.trainer_died_early("no memory")
    with pytest.raises(StudyError, match="child processes die"):
        never.trainer_died_early("no memory")
    counter = FailureCounter()
    for limit in (FIRST_STARTS, LATER_STARTS):
        for _ in range(limit - 1):
            counter.trainer_died_early("no memory")
        counter.trainer_started()
    for _ in range(LATER_STARTS - 1):
        counter.trainer_died_early("no memory")
    with pytest.raises(StudyError, match="child processes die before they can train: no memory"):
        counter.trainer_died_early("no memory")
