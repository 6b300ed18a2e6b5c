"""What a trial that continues another one, or runs it again, takes over."""

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.continuation import enqueue
from dropopt.study.store.keys import ATTEMPT, CONTINUES, PREVIOUS, RETRY_OF
from dropopt.study.store.retries import parameters, root
from dropopt.study.store.search_ledger import SearchLedger


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


def test_epochs_that_are_trained_again_replace_the_inherited_reports():
    """Up to the last one. The trial is not pruned there: an earlier attempt has passed these epochs."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    space = Space.load("dropout").bound(RunConfig())
    ledger = SearchLedger(study, space, RunConfig.parse({"engine": {"kind": "dropout"}}), 0, 2)
    kinds = {"fixed_params": {"kind": "dropout"}}
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=kinds, intermediate_values={1: 0.9, 2: 0.8}))
    trial, _ = ledger.ask()
    pruned = [ledger.report(trial, 0.5 + epoch, epoch=epoch, epochs=5) for epoch in (1, 2, 3)]
    assert pruned == [False, False, True]
    assert study.trials[0].intermediate_values == {1: 1.5, 2: 2.5, 3: 3.5}
