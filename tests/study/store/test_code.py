"""The sources of the user's own code, as a study records them."""

import optuna
from optuna.trial import TrialState, create_trial

from dropopt.config import RunConfig
from dropopt.study.store import code
from dropopt.study.store.code import code_of, record_code
from dropopt.study.store.keys import CODE


def test_enqueued_trials_have_the_sources_that_run_them():
    """Anchors are enqueued before the sources are recorded, and run after it; so are trials after an edit."""
    study = optuna.create_study()
    for rate in (0.0, 0.1):
        study.enqueue_trial({"r0": rate})
    base = RunConfig.parse({"data": {"name": "other_tasks:signals"}, "model": {"name": "other_tasks:signal_network"}})
    assert record_code(study, base) == ""
    assert code_of(study, 0)["other_tasks"]["file"].endswith("other_tasks.py")
    later = optuna.create_study()
    later.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0))
    later.enqueue_trial({"r0": 0.0})
    record_code(later, base)
    assert code_of(later, 0) is None, "an earlier version did not record its sources"
    assert code_of(later, 1) == code_of(study, 0)


def test_sources_that_have_changed_are_told_with_the_last_trial_that_had_the_old_ones(monkeypatch):
    """Once, and only those modules that have changed; a module that is new has not changed."""
    study, base, found = optuna.create_study(), RunConfig(), {}

    class Source:
        def __init__(self, text):
            self.text = text

        def plain(self):
            return {"file": "a.py", "sha256": self.text}

    monkeypatch.setattr(code, "sources", lambda names: {name: Source(text) for name, text in found.items()})
    assert record_code(study, base) == ""
    assert CODE not in study.user_attrs
    found |= {"a": "1", "b": "1"}
    assert [record_code(study, base) for _ in "12"] == ["", ""]
    found["a"] = "2"
    assert record_code(study, base) == "", "no trial had the old ones"
    study.add_trials([create_trial(value=1.0)] * 3)
    found["c"] = "1"
    assert record_code(study, base) == ""
    found |= {"a": "3", "b": "3"}
    assert record_code(study, base) == "the source of a, b has changed since trial 2"
    assert [entry["since"] for entry in study.user_attrs[CODE]] == [0, 0, 3, 3]
    assert [code_of(study, number)["a"]["sha256"] for number in (0, 2, 3, 9)] == ["2", "2", "3", "3"]
