"""What a ledger tells of the epochs of a trial."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.keys import ANCHOR, CONTINUES
from dropopt.study.store.search_ledger import SearchLedger


@pytest.mark.parametrize(
    ("attributes", "pruned"),
    [({}, [True, True, False]), ({ANCHOR: "no dropout"}, [False] * 3), ({CONTINUES: 0}, [False] * 3)],
)
def test_a_trial_is_not_pruned_after_its_last_epoch(attributes, pruned):
    """Its cost is paid by then. Anchors and continuations are never pruned."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    space = Space.load("dropout").bound(RunConfig())
    ledger = SearchLedger(study, space, RunConfig.parse({"engine": {"kind": "dropout"}}), 0, 2)
    kinds = {"fixed_params": {"kind": "dropout"}}
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=kinds, user_attrs=attributes))
    trial, _ = ledger.ask()
    assert [ledger.report(trial, 0.5, epoch=epoch, epochs=3) for epoch in (1, 2, 3)] == pruned
