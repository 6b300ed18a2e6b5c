"""Whether arms can be compared: they differ only in their dropout, and their budgets are told."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.confirm.arms import Arm, arm_of_study, check_comparable
from dropopt.study.store.keys import BASE, INTERRUPTED, REASON, RETRY


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {"name": "mnist"}}, r"data\.name is 'digits' and 'mnist'"),
        ({"model": {"name": "resnet18"}}, r"model\.name is 'small' and 'resnet18'"),
        ({"train": {"epochs": 9}}, r"train\.epochs is 8 and 9"),
    ],
)
def test_arms_that_differ_in_more_than_their_dropout_are_refused(changed, message):
    """In their data, their network or their training; settings that are searched and the device may differ."""
    same = {"data": {"name": "digits"}, "model": {"name": "small"}, "train": {"epochs": 8, "lr": 0.1}}
    first = Arm("a", "a", True, RunConfig.parse(same), {"lr": "0.01 to 1"})
    free = RunConfig.parse(same | {"train": {"epochs": 8, "lr": 0.2, "device": "cpu", "seed": 3}})
    assert check_comparable([first, Arm("b", "b", False, free, {"lr": "0.01 to 1"})]) == []
    with pytest.raises(ConfigError, match=message):
        check_comparable([first, Arm("b", "b", False, RunConfig.parse(same | changed), {"lr": "0.01 to 1"})])


def test_the_budget_of_an_arm_is_the_trials_that_ended():
    """A trial that was interrupted is not counted beside its retry, nor one that waits or runs."""
    study = optuna.create_study(study_name="mine")
    study.set_user_attr(BASE, RunConfig().model_dump(mode="json"))
    study.add_trial(create_trial(value=0.5))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: INTERRUPTED, RETRY: True}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "Broken"}))
    study.enqueue_trial({})
    assert arm_of_study("mine", study).trials == 3
