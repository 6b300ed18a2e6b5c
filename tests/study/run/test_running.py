"""The time limits of a trial in a slot."""

from unittest.mock import Mock

import pytest

from dropopt.config import RunConfig
from dropopt.study.run import running
from dropopt.study.run.messages import Report


@pytest.fixture(name="clock")
def _clock(monkeypatch):
    clock = Mock(return_value=100.0)
    monkeypatch.setattr(running.time, "monotonic", clock)
    return clock


def test_a_trial_is_silent_after_a_minute_or_twice_its_longest_epoch(clock):
    """Since its last report, since its process was replaced, or since a later moment."""
    trial = running.Running(Mock(), RunConfig(), began=100.0, _last=100.0)
    for now, since, silent in ((160.0, 0.0, False), (160.5, 0.0, True), (160.5, 101.0, False)):
        clock.return_value = now
        assert trial.is_silent(since) is silent
    clock.return_value = 200.0
    trial.epoch_ended()  # 100 seconds
    clock.return_value = 205.0
    trial.epoch_ended()  # the longest epoch counts, not the last
    for now, silent in ((404.5, False), (405.5, True)):
        clock.return_value = now
        assert trial.is_silent(0.0) is silent
    trial.restarted()
    assert not trial.is_silent(0.0)
    assert trial.seconds == 305.5


def test_the_history_is_in_the_order_of_epochs(clock):
    """A repeated epoch replaces the first one."""
    trial = running.Running(Mock(), RunConfig(), began=100.0, _last=100.0)
    for epoch, loss in ((2, 0.5), (1, 0.75), (2, 0.25)):
        trial.keep(Report(0, epoch, 3, loss, loss, 0.5, loss, loss))
    assert trial.history == running.History.of(
        [Report(0, epoch, 3, loss, loss, 0.5, loss, loss) for epoch, loss in ((1, 0.75), (2, 0.25))]
    )
