"""Configurations of trials, of dropopt and of other programs."""

import optuna
import pytest
from optuna.trial import create_trial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.after.configuration import configuration_of
from dropopt.study.after.export import exported
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
    assert "(depth are no settings of dropopt)" in found.notice
    assert provenance["parameters"]["depth"] == 7
    assert (provenance["study"], provenance["value"]) == ("mine", 0.9)
    assert "data_fingerprint" not in provenance


def test_a_stored_configuration_takes_precedence(study):
    """A script may store it under the same attribute as dropopt."""
    run = RunConfig.parse({"train": {"lr": 0.5}})
    study.add_trial(create_trial(value=1.0, user_attrs={"config": run.model_dump(mode="json")}))
    found = configuration_of(study, study.trials[0])
    assert (found.run, found.stored, found.notice) == (run, True, "")


@pytest.mark.parametrize(
    ("parameters", "attributes", "said"),
    [
        ({"x": 1.0}, {}, "its parameters are x, and none is a setting of dropopt; run the study with dropopt run"),
        ({}, {}, "its parameters are none"),
        ({"r0": 7.0}, {}, r"its parameters are not a configuration: r0 must be in \[0, 1\], got 7.0"),
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
