"""Continuations: what the trial that continues another one takes over."""

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.study.store.continuation import enqueue
from dropopt.study.store.keys import ATTEMPT, CONTINUES, PREVIOUS, RETRY_OF
from dropopt.study.store.retries import parameters, root


def test_a_retry_is_continued_as_its_first_attempt():
    """The seed of a training and its checkpoint are named by the first attempt, so both stay the same."""
    study = optuna.create_study()
    own = {"params": {"r0": 0.2}, "distributions": {"r0": FloatDistribution(0, 1)}}
    study.add_trial(create_trial(state=TrialState.FAIL, **own))
    chain = {RETRY_OF: 0, PREVIOUS: 0, ATTEMPT: 2}
    reports = {1: 0.9, 2: 0.8}
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=chain, intermediate_values=reports, **own))
    waiting = enqueue(study, 1)
    assert (waiting.number, waiting.user_attrs[CONTINUES], root(waiting)) == (2, 1, 0)
    assert parameters(waiting) == {"r0": 0.2}
    assert waiting.intermediate_values == reports
