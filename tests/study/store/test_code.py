"""The sources of the user's own code, as a study records them."""

import optuna
from optuna.trial import TrialState, create_trial

from dropopt.config import RunConfig
from dropopt.study.store.code import code_of, record_code


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
