"""Whether arms can be compared: they differ only in their dropout, and their budgets are told."""

from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from spaces import space_of

from dropopt.config import ConfigError, RunConfig
from dropopt.study.confirm.arms import Arm, arm_of_space, arm_of_study, check_comparable
from dropopt.study.confirm.comparison import Compute, compute
from dropopt.study.store.keys import BASE, CONFIRMS, CONTINUES, INTERRUPTED, REASON, RETRY, SECONDS
from dropopt.study.store.retries import enqueue_again


def searched(name, base=None):
    """A study without trials."""
    study = optuna.create_study(study_name=name)
    study.set_user_attr(BASE, (base or RunConfig()).model_dump(mode="json"))
    return study


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {"name": "mnist"}}, r"data\.name is 'digits' and 'mnist'"),
        ({"model": {"name": "resnet18"}}, r"model\.name is 'small' and 'resnet18'"),
        ({"task": {"loss": "mse_loss"}}, r"task\.loss is 'cross_entropy' and 'mse_loss'"),
        ({"task": {"metric": "mine:dice"}}, r"task\.metric is 'accuracy' and 'mine:dice'"),
        ({"train": {"epochs": 9}}, r"train\.epochs is 8 and 9"),
        ({"train": {"epochs": 8, "augment": ["flip"]}}, r"train\.augment is \[\] and \['flip'\]"),
    ],
)
def test_arms_that_differ_in_more_than_their_dropout_are_refused(changed, message):
    """In data, network, task or training; what is searched, the device and the data's folder may differ.

    Another objective is noted.
    """
    same = {"data": {"name": "digits"}, "model": {"name": "small"}, "train": {"epochs": 8, "lr": 0.1}}
    first = Arm("a", "a", True, RunConfig.parse(same), {"lr": "0.01 to 1"})
    own = {
        "data": {"name": "digits", "root": "elsewhere"},
        "task": {"objective": "metric"},
        "train": {"lr": 0.2, "device": "cpu", "seed": 3},
    }
    free = RunConfig.parse(same | own | {"train": same["train"] | own["train"]})
    assert check_comparable([first, Arm("b", "b", False, free, {"lr": "0.01 to 1"})]) == [
        "the searches of the arms do not optimise the same: a loss, b accuracy"
    ]
    other = Arm("b", "b", False, RunConfig.parse(same | changed), {"lr": "0.01 to 1"})
    with pytest.raises(ConfigError, match=rf"^arms a and b cannot be compared: {message}$"):
        check_comparable([first, other])


def test_arms_of_one_name_of_data_with_other_contents_are_refused():
    """Their hashes differ, as after a change of the files; before its search, an arm has none."""
    arms = [Arm(name, name, True, RunConfig(), None, {"train": content}) for name, content in ("ax", "bx", "cy")]
    assert check_comparable([*arms[:2], replace(arms[2], data=None)]) == []
    with pytest.raises(ConfigError, match=r"^arms a and c cannot be compared: their data have different contents$"):
        check_comparable(arms)


def test_data_at_two_places_are_the_same_if_their_hashes_are():
    """Before its search, an arm has no hashes that could tell."""
    bases = [RunConfig.parse({"data": {"name": f"folder:{place}"}}) for place in "ab"]
    first, other = (Arm(base.data.name, base.data.name, True, base, None, {"train": "x"}) for base in bases)
    assert check_comparable([first, other]) == []
    with pytest.raises(ConfigError, match=r"cannot be compared: data\.name is 'folder:a' and 'folder:b'$"):
        check_comparable([first, replace(other, data=None)])


def test_settings_of_training_that_are_searched_differently_are_told():
    """With their ranges as words, and so are budgets that differ."""
    lr, sizes = FloatDistribution(0.01, 1, log=True), CategoricalDistribution([16, 32])
    spaces = {"a": {"lr": lr}, "b": {"lr": FloatDistribution(0.1, 1), "batch_size": sizes, "r0": lr}, "c": {"lr": lr}}
    arms = []
    for name, space in spaces.items():
        study = searched(name)
        params = {one: getattr(kind, "low", 16) for one, kind in space.items()}
        study.add_trials([create_trial(value=0.5, params=params, distributions=space)] * len(space))
        arms.append(arm_of_study(name, study))
    assert arms[1].training == {"lr": "0.1 to 1", "batch_size": "one of 16, 32"}
    assert check_comparable([arms[0], arms[2]]) == []
    assert check_comparable(arms) == [
        "a and b do not search the same settings of training: batch_size (not searched and one of 16, 32), "
        "lr (0.01 to 1, logarithmic and 0.1 to 1)",
        "the arms do not have the same number of trials: a 1, b 3, c 1",
    ]


def test_the_schedule_of_a_drop_rate_is_no_setting_of_training():
    """It has the name of the learning rate's schedule, so arms with two of those were compared, with a false note."""
    arms = []
    for name, learning in (("none", "onecycle"), ("constant", "onecycle"), ("linear", "cosine")):
        study = searched(name, RunConfig.parse({"engine": {"kind": "dropout"}, "train": {"schedule": learning}}))
        space = {"lr": FloatDistribution(0.1, 1)}
        if name != "none":
            space |= {"schedule": CategoricalDistribution(["constant", "linear"])}
        params = {"lr": 0.5, "schedule": name}
        study.add_trial(create_trial(value=0.5, params={key: params[key] for key in space}, distributions=space))
        arms.append(arm_of_study(name, study))
    assert check_comparable(arms[:2]) == []
    with pytest.raises(ConfigError, match=r"train\.schedule is 'onecycle' and 'cosine'$"):
        check_comparable(arms)


def test_a_baseline_may_search_the_schedule_of_the_learning_rate(tmp_path):
    """It is a setting of training before the search, when the space says so, and after it, when the choices do."""
    text = "engine:\n  kind: dropout\n  p: {low: 0, high: 0.5}\ntrain:\n  schedule: [cosine, constant]\n"
    space = space_of(tmp_path, text)
    base = space.base(RunConfig())
    study = searched("a", base)
    trial = study.ask()
    space.suggest(trial, 10, base)
    study.tell(trial, 0.5)
    before = arm_of_space("a", "a", space, base, 1)
    assert arm_of_study("a", study).training == before.training == {"schedule": "one of cosine, constant"}


def test_a_confirmation_is_no_arm():
    """It was said that its data have other contents, which are those of the validation splits that it draws."""
    study = searched("a-confirmed")
    study.set_user_attr(CONFIRMS, "a")
    with pytest.raises(ConfigError, match=r"^study 'a-confirmed' is a confirmation; give the study a$"):
        arm_of_study("a-confirmed", study)


@pytest.mark.parametrize("baseline", [False, True])
def test_a_search_that_will_be_run_is_an_arm(tmp_path, baseline):
    """With the ranges of its space, and the number of trials that it will have."""
    engine = "kind: {choices: [dropout, none]}" if baseline else "r0: {low: 0, high: 0.5}"
    space = space_of(tmp_path, f"engine:\n  {engine}\ntrain:\n  lr: {{low: 0.01, high: 1, log: true}}\n")
    base = RunConfig()
    expected = Arm("a", "its study", baseline, base, {"lr": "0.01 to 1, logarithmic"}, None, 9)
    assert arm_of_space("a", "its study", space, base, 9) == expected


@pytest.mark.parametrize("kind", ["name", "study"])
def test_arms_are_two_or_more_and_different(kind):
    """By their name and by their study."""
    arm = Arm("a", "x", True, RunConfig(), None)
    with pytest.raises(ConfigError, match=r"^a comparison needs two or more arms, got 1$"):
        check_comparable([arm])
    twice = replace(arm, **{"name": "b", "study": "y"} | {kind: getattr(arm, kind)})
    with pytest.raises(ConfigError, match=rf"^two arms have the same {kind}: [ax]; give each arm once$"):
        check_comparable([arm, twice])


def test_the_budget_of_an_arm_is_the_trials_that_ended():
    """A trial that was interrupted is not counted beside its retry, nor one that continues another, waits or runs."""
    study = searched("mine")
    study.add_trial(create_trial(value=0.5))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: INTERRUPTED, RETRY: True}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "Broken"}))
    study.add_trial(create_trial(value=0.4, user_attrs={CONTINUES: 1}))
    study.enqueue_trial({})
    found = arm_of_study("mine", study)
    assert (found.trials, found.training) == (3, None)  # no trial says what was searched


def test_the_cost_of_an_arm_counts_epochs_once():
    """A trial with its retries is one trial; a retry inherits reports, which are not epochs of its own."""
    study = optuna.create_study()
    study.add_trial(
        create_trial(value=0.5, intermediate_values=dict.fromkeys(range(1, 9), 0.5), user_attrs={SECONDS: 4.0})
    )
    stopped = create_trial(
        state=TrialState.FAIL, intermediate_values={1: 0.9, 2: 0.8}, user_attrs={REASON: INTERRUPTED, RETRY: True}
    )
    study.add_trial(stopped)
    enqueue_again(study, study.trials[1])
    retry = study.ask()
    for epoch in (3, 4, 5):
        retry.report(0.7, epoch)
    retry.set_user_attr(SECONDS, 1.5)
    study.tell(retry, state=TrialState.PRUNED)
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "Broken"}))  # no epoch was trained
    assert compute(study) == Compute(trials=2, epochs=8 + 5, seconds=5.5)
