"""Patience: how calls to a storage are repeated during an outage, and what is reported of it."""

from types import SimpleNamespace

from dropopt.study.store import patient
from dropopt.study.store.patient import Patience


def test_an_outage_is_reported_when_it_has_lasted_long_enough(monkeypatch):
    """Also if the next try would be due later only; a shorter outage is not reported."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(patient, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(patient, "SAID_AFTER", 0.35)
    monkeypatch.setattr(patient.random, "uniform", lambda low, high: high)
    for lasts, lines in ((0.15, 0), (0.5, 2)):
        said, end = [], now[0] + lasts

        def write(end=end):
            if now[0] < end:
                raise OSError("no space left on device")
            return "stored"

        assert Patience(60.0, said.append).call(write) == "stored"
        assert len(said) == lines, said
    assert said[0].startswith("storage unreachable, retrying for 60 s: no space left")
    assert said[1].startswith("storage reachable again after")
