"""How long an epoch takes, with a pool that plays a script."""

import threading

import pytest

from dropopt.config import ConfigError, RunConfig
from dropopt.study.run import measure
from dropopt.study.run.errors import StudyError
from dropopt.study.run.messages import Done, Failed, Prepare, Ready, Report, Train
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.run.slots import Died, Event, Targets

RUN = RunConfig.parse({"train": {"epochs": 9, "lr": 0.5, "device": "cuda:3"}})
SHORT = RunConfig.parse({"train": {"epochs": 1, "lr": 0.5, "device": "cuda:3"}})


@pytest.fixture(name="pool")
def _pool(monkeypatch):
    class Pool:
        def __init__(self, *given):
            Pool.given, Pool.sent, Pool.closed = given, [], False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            Pool.closed = True

        def wake(self):
            pass

        kill = wake

        def send(self, slot, message):
            Pool.sent.append((slot, message))

        def wait(self, seconds):
            assert 0 < seconds <= 1
            found = Pool.script.pop(0)
            return found and Event(0, found)

    monkeypatch.setattr(measure, "Pool", Pool)
    monkeypatch.setattr(measure, "cards", lambda device: [f"card of {device}"])
    return Pool


def test_one_epoch_is_trained(pool):
    """In a child of its own, with all settings but the number of epochs."""
    report = Report(0, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0)
    pool.script = [None, Ready(2, {}, []), None, report, Done(0, 1.0, 1, 1.0, 1.0, 12.5), Died("later")]
    assert measure.seconds_of_an_epoch(RUN, SignalCatcher()) == 12.5
    assert pool.given == (1, Targets(), ["card of cuda:3"])
    assert pool.sent == [(0, Prepare(SHORT)), (0, Train(0, SHORT))]
    assert pool.closed
    pool.script = [Done(0, 1.0, 1, 1.0, 1.0, 0.5)]
    assert measure.seconds_of_an_epoch(RUN, SignalCatcher(), Targets("a:b")) == 0.5
    assert pool.given[1] == Targets("a:b")


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Failed(None, "ConfigError", "no data", "f.py, line 3", ""), ConfigError("no data")),
        (
            Failed(0, "OSError", "no", "f.py, line 3", ""),
            StudyError("an epoch cannot be trained: OSError: no (f.py, line 3)"),
        ),
        (Died("it fell"), StudyError("an epoch cannot be trained: it fell")),
    ],
)
def test_an_epoch_that_cannot_be_trained(pool, last, error):
    """The reason in one line."""
    pool.script = [last]
    with pytest.raises(type(error)) as caught:
        measure.seconds_of_an_epoch(RUN, SignalCatcher())
    assert str(caught.value) == str(error)
    assert pool.closed


@pytest.mark.parametrize("event", [None, Died("its process ended by signal 15", signal=15)])
def test_a_signal_ends_the_measurement(pool, event):
    """Also one that ends the child first, as a shutdown may."""
    signals = SignalCatcher()
    pool.script = [Ready(2, {}, []), event]
    arrives = threading.Timer(0.1, signals._catch, [15])
    if event is None:
        signals._catch(15)
    else:
        arrives.start()
    assert measure.seconds_of_an_epoch(RUN, signals) is None
    assert (signals.received, pool.closed) == (15, True)
