"""Configurations of trials, of dropopt and of other programs."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.config import Baseline, ConfigError, RunConfig
from dropopt.study.after.configuration import best_exportable, configuration_of
from dropopt.study.after.export import exported
from dropopt.study.show.trials import rows
from dropopt.study.store.queries import choose


@pytest.fixture(name="study")
def _study():
    return optuna.create_study(study_name="mine", direction="maximize")


def test_a_script_of_ones_own_exports_the_settings_among_its_parameters(study):
    """Settings of engine and training are exported by their names; the notice names the rest."""

    def objective(trial):
        trial.suggest_float("w_pfid_early", 0.5, 0.5)
        for name, value in {"w_pfid_middle": 0.25, "w_pfid_late": 0.125, "r0": 0.3, "lr_sgd": 0.2, "depth": 7}.items():
            trial.suggest_float(name, value, value)
        return 0.9

    study.optimize(objective, n_trials=1)
    found, provenance = exported(study, choose(study, None), "")
    assert (found.run.engine.w_pfid, found.run.engine.r0, found.run.train.lr) == ((0.5, 0.25, 0.125), 0.3, 0.2)
    assert "(dropopt has no setting depth)" in found.notice
    assert provenance["parameters"]["depth"] == 7
    assert (provenance["study"], provenance["value"]) == ("mine", 0.9)
    assert "data_fingerprint" not in provenance
    assert [row["trial"] for row in rows(study)] == [0]


def test_a_stored_configuration_takes_precedence(study):
    """A script may store it under the same attribute as dropopt."""
    run = RunConfig.parse({"train": {"lr": 0.5}})
    study.add_trial(create_trial(value=1.0, user_attrs={"config": run.model_dump(mode="json")}))
    found = configuration_of(study, study.trials[0])
    assert (found.run, found.stored, found.foreign) == (run, True, True)
    said = "use the data and the network that its stored configuration names, digits and small, which may be others"
    assert said in found.notice
    study.set_user_attr("base", run.model_dump(mode="json"))  # as dropopt does
    found = configuration_of(study, study.trials[0])
    assert (found.foreign, found.notice) == (False, "")


@pytest.mark.parametrize(
    ("parameters", "attributes", "said"),
    [
        ({"x": 1.0, "y": 1.0}, {}, "are x, y, and none is a setting of dropopt; run the study with dropopt run"),
        ({}, {}, "its parameters are none"),
        ({"r0": 7.0}, {}, r"its parameters are not a configuration: r0 must be in \[0, 1\], got 7.0"),
        ({"w_pfid": 0.5, "w_pfid_late": 1.0}, {}, "a configuration: w_pfid and w_pfid_late are the same setting"),
        ({"w_pfid_late": 1.0, "w_pfid": 0.5}, {}, "a configuration: w_pfid_late and w_pfid are the same setting"),
        ({}, {"config": [1]}, "its user attribute 'config' must be a mapping, got"),
        ({}, {"config": {"trian": 1}}, "its user attribute 'config' is not a configuration: unknown setting 'trian'"),
    ],
)
def test_what_is_missing_is_said(study, parameters, attributes, said):
    """The message is one line that says what to change."""
    ranges = {name: optuna.distributions.FloatDistribution(0, 9) for name in parameters}
    study.add_trial(create_trial(value=1.0, params=parameters, distributions=ranges, user_attrs=attributes))
    with pytest.raises(ConfigError, match=said) as caught:
        configuration_of(study, study.trials[0])
    assert str(caught.value).startswith("trial 0 of study 'mine'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("optimizer", "rate", "other"), [("sgd", 0.5, "lr_adamw"), ("adamw", 0.25, "lr_sgd")])
def test_the_rate_of_the_other_optimizer_is_no_setting(study, optimizer, rate, other):
    """A script may suggest a learning rate for each optimizer in every trial; only one of them was used."""
    params = {"lr_sgd": 0.5, "optimizer": optimizer, "lr_adamw": 0.25}
    ranges = dict.fromkeys(params, FloatDistribution(0, 1)) | {"optimizer": CategoricalDistribution(["sgd", "adamw"])}
    study.add_trial(create_trial(value=1.0, params=params, distributions=ranges))
    found = configuration_of(study, study.trials[0])
    assert (found.run.train.optimizer, found.run.train.lr, found.unknown) == (optimizer, rate, (other,))


def test_parameters_are_settings_by_section_and_stage(study):
    """A baseline's parameters are its own settings, and a range for each optimizer is that of the optimizer's setting.

    Suffixes count only on settings that can have them.
    """
    for parameters, unknown, engine, train in (
        ({"kind": "dropout", "p": 0.5, "lr_adamw": 0.125, "r0": 1.0}, ("r0",), Baseline(kind="dropout", p=0.5), 0.125),
        ({"r0": 0.5, "p": 0.5, "r0_sgd": 0.1, "lr_late": 0.1, "lr": 0.25}, ("p", "r0_sgd", "lr_late"), 0.5, 0.25),
    ):
        kinds = {str: lambda value: CategoricalDistribution([value]), float: lambda value: FloatDistribution(0, value)}
        ranges = {name: kinds[type(value)](value) for name, value in parameters.items()}
        study.add_trial(create_trial(value=1.0, params=parameters, distributions=ranges))
        found = configuration_of(study, study.trials[-1])
        assert (found.stored, found.unknown, found.run.train.lr) == (False, unknown, train)
        assert (found.run.engine if isinstance(engine, Baseline) else found.run.engine.r0) == engine
    study.add_trial(create_trial(value=1.0, params={"lr": 0.5}, distributions={"lr": FloatDistribution(0, 1)}))
    assert configuration_of(study, study.trials[-1]).notice == (
        "dropopt did not run this trial: the settings among its parameters are used, and defaults for the data, the "
        "network and all other settings"
    )


def test_a_trial_of_dropopt_that_ended_before_it_had_a_configuration(study):
    """Its message says why, or else its state; its parameters are not taken for a configuration."""
    study.set_user_attr("base", {})
    ranges = {"lr": FloatDistribution(0, 1)}
    failed = {"state": TrialState.FAIL}
    for facts, said in (
        (failed | {"user_attrs": {"message": "no such file"}}, "no such file"),
        (failed, "FAIL"),
        ({"value": -5.0}, "another program has added it; give another --trial"),
    ):
        study.add_trial(create_trial(**facts, params={"lr": 0.5}, distributions=ranges))
        with pytest.raises(ConfigError, match=f"^trial . of study 'mine' has no configuration to export: {said}$"):
            configuration_of(study, study.trials[-1])


def test_the_best_trial_that_can_be_exported_is_named():
    """Another program has added a better one, which has no configuration."""
    study = optuna.create_study(study_name="mine")
    study.set_user_attr("base", {})
    run = RunConfig().model_dump(mode="json")
    for value in (3.0, 2.0):
        study.add_trial(create_trial(value=value, user_attrs={"config": run}))
    study.add_trial(create_trial(value=1.0))
    with pytest.raises(ConfigError, match=r"another program has added it; give --trial 1, the best that has one$"):
        configuration_of(study, choose(study, None))
    assert best_exportable(study).number == 1
    assert [row["trial"] for row in rows(study)] == [1, 0]
