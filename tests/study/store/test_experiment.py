"""Which settings make a study another experiment."""

import optuna
import pytest
from optuna.trial import create_trial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.experiment import check, create, data_difference, space_of
from dropopt.study.store.keys import SITES


@pytest.fixture(name="begun", scope="module")
def _begun():
    """A study with a trial, its space and its configuration."""
    space, base = Space.load("dropout"), RunConfig.parse({"engine": {"kind": "dropout"}})
    study, _ = create(optuna.storages.InMemoryStorage(), "mine", space, base, {}, known=False)
    study.add_trial(create_trial(value=1.0))
    return study, space, base


def changed(base, section, name, value):
    settings = base.model_dump(mode="json")
    return RunConfig.parse(settings | {section: settings[section] | {name: value}})


OTHER = {
    "data": {"name": "mnist", "subset": 9, "split_seed": 7, "validation_fraction": 0.3, "test_fraction": 0.3,
             "image_size": 8},
    "model": {"name": "vgg", "options": {"head": 8}},
    "task": {"objective": "metric"},
    "train": {"epochs": 77, "batch_size": 77, "optimizer": "adamw", "lr": 0.077},
    "engine": {"sites": "conv"},
}  # fmt: skip


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in OTHER for name in OTHER[section]])
def test_a_study_with_another_value_of_a_setting_is_refused(begun, section, name):
    """Trials with different data, splits, networks or trainings cannot be compared."""
    study, space, base = begun
    check(study, space, base)
    with pytest.raises(ConfigError, match=rf"study 'mine' exists and was created with {section}\.{name}"):
        check(study, space, changed(base, section, name, OTHER[section][name]))


@pytest.mark.parametrize(("section", "name", "value"), [("data", "root", "x"), ("train", "device", "cpu")])
def test_where_the_data_are_and_what_trains_may_differ(begun, section, name, value):
    """Between machines. The seed of the configuration may differ too, because each trial has its own."""
    study, space, base = begun
    check(study, space, changed(base, section, name, value))
    check(study, space, changed(base, "train", "seed", 99))


def test_a_study_keeps_the_choices_of_sites_that_it_began_with():
    """Optuna refuses other choices of a parameter; a study that has stored none has those of the file."""
    study, space = optuna.create_study(), Space.load("paper")

    def choices():
        return [one.choices for one in space_of(study, space).parameters if one.setting == "sites"]

    assert choices() == [one.choices for one in space.parameters if one.setting == "sites"]
    study.set_user_attr(SITES, ["conv"])
    assert choices() == [("conv",)]


def test_data_of_a_study_without_stored_hashes_are_not_said_to_have_changed(begun):
    """Another program has removed them; it is not known whether the data are the same."""
    study, _, base = begun
    assert data_difference(study, {"train": "a"}, base.data.name) == (
        "the storage has no hashes of the data of study 'mine', so they may be others"
    )
