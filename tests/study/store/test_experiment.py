"""Which settings make a study another experiment."""

from dataclasses import replace

import optuna
import pytest
from optuna.trial import create_trial

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store import experiment
from dropopt.study.store.experiment import check, create, data_difference, name_of_files, space_of
from dropopt.study.store.keys import BASE, DATA, FINGERPRINT, ID, SITES, SPACE


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
    said = (
        "optimises the loss, not the accuracy"
        if name == "objective"
        else rf"was created with {section}\.{name}(\.head)? ="
    )
    with pytest.raises(ConfigError, match=f"study 'mine' exists and {said}"):
        check(study, space, changed(base, section, name, OTHER[section][name]))


@pytest.mark.parametrize(("section", "name", "value"), [("data", "root", "x"), ("train", "device", "cpu")])
def test_where_the_data_are_and_what_trains_may_differ(begun, section, name, value):
    """Between machines, and the name of the file of the space.

    The seed of the configuration may differ too, because each trial has its own.
    """
    study, space, base = begun
    check(study, replace(space, name="copy"), base)
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


def test_a_study_has_its_identity_from_the_beginning(begun):
    """The base comes last: a study that has it has all of them. The value is named."""
    _, space, base = begun
    written, storage = [], optuna.storages.InMemoryStorage()
    store = storage.set_study_user_attr
    storage.set_study_user_attr = lambda study_id, key, value: written.append(key) or store(study_id, key, value)
    study, created = create(storage, "new", space, base, {ID: "7"}, known=False)
    assert created
    assert written == [SPACE, FINGERPRINT, ID, BASE]
    assert study.user_attrs == {
        SPACE: "dropout",
        FINGERPRINT: space.fingerprint,
        ID: "7",
        BASE: base.model_dump(mode="json"),
    }
    assert (study.metric_names, study.direction.name) == (["validation loss (smoothed)"], "MINIMIZE")
    assert (name_of_files(study), name_of_files(begun[0])) == ("new 7", "mine")
    again, created = create(storage, "new", space, base, {ID: "8"}, known=True)
    assert (created, again.user_attrs[ID]) == (True, "8")


@pytest.mark.parametrize(("after", "created"), [(0, False), (7, False), (None, True)])
def test_a_study_that_another_process_has_just_created_is_waited_for(begun, monkeypatch, after, created):
    """For five seconds; if it has no identity by then, that process has died, and the study is begun."""
    _, space, base = begun
    storage, naps = optuna.storages.InMemoryStorage(), []
    optuna.create_study(study_name="other", storage=storage)
    empty = optuna.create_study(study_name="new", storage=storage)
    identity = {SPACE: "dropout", FINGERPRINT: space.fingerprint, BASE: base.model_dump(mode="json")}

    def begin():
        for key, value in identity.items():
            empty.set_user_attr(key, value)

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == after:
            begin()

    monkeypatch.setattr(experiment.time, "sleep", sleep)
    if after == 0:
        begin()
    study, began = create(storage, "new", space, base, {ID: "mine"}, known=False)
    assert (study.study_name, began) == ("new", created)
    assert (ID in study.user_attrs) == created
    assert naps == [0.1] * (50 if after is None else after)


def test_a_study_of_another_program_is_refused_unless_it_is_new(begun):
    """An empty one may be begun, but not if another process has just begun it; another direction is never right."""
    _, space, base = begun
    study = optuna.create_study(study_name="s")
    check(study, space, base)
    line = r"^study 's' exists and was not created by dropopt; give another --study-name, or the same settings$"
    with pytest.raises(ConfigError, match=line):
        check(study, space, base, begun=True)
    study.add_trial(create_trial(value=1.0))
    for key in (BASE, FINGERPRINT):
        with pytest.raises(ConfigError, match=line):
            check(study, space, base)
        study.set_user_attr(key, {} if key == BASE else space.fingerprint)
    with pytest.raises(ConfigError, match=line):
        check(optuna.create_study(study_name="s", direction="maximize"), space, base)
    study.set_user_attr(SPACE, "mine")
    study.set_user_attr(FINGERPRINT, "other")
    with pytest.raises(ConfigError, match=r"exists and its search space \(mine\) is not dropout; give"):
        check(study, space, base)
    study.set_user_attr(SPACE, "dropout")
    with pytest.raises(ConfigError, match=r"exists and its search space \(dropout\) has changed since; give"):
        check(study, space, base)


def test_a_setting_of_a_later_version_is_another_experiment(begun):
    """One that is newer than the study has its default; data that were moved are compared by their hashes later."""
    _, space, base = begun
    study = optuna.create_study(study_name="s")
    study.add_trial(create_trial(value=1.0))
    settings = base.model_dump(mode="json")
    del settings["train"]["lr"]
    for key, value in {SPACE: "dropout", FINGERPRINT: space.fingerprint, BASE: settings}.items():
        study.set_user_attr(key, value)
    check(study, space, base)
    study.set_user_attr(BASE, settings | {"later": {"a": 1}})
    with pytest.raises(ConfigError, match=r"exists and was created with later\.a = 1, not None; give"):
        check(study, space, changed(base, "data", "root", "x"))
    study.set_user_attr(BASE, settings)
    with pytest.raises(ConfigError, match=r"exists and was created with model\.options\.head = None, not 3; give"):
        check(study, space, changed(base, "model", "options", {"head": 3}))
    study.set_user_attr(BASE, settings | {"data": settings["data"] | {"name": "numpy:a.npz"}})
    check(study, space, changed(base, "data", "name", "numpy:b.npz"))
    with pytest.raises(ConfigError, match=r"exists and was created with data\.name = numpy:a\.npz, not digits; give"):
        check(study, space, base)


def test_other_data_are_told_by_the_splits_that_differ():
    """And by both names, if the data were moved."""
    study = optuna.create_study(study_name="s")
    study.set_user_attr(DATA, {"train": "a", "test": "b"})
    now = {"train": "a", "validation": "c", "test": "d"}
    assert data_difference(study, {"train": "a", "test": "b"}, "x") == ""
    assert (
        data_difference(study, now, "x") == "the data of study 's' have changed since it began (in: validation, test)"
    )
    study.set_user_attr(BASE, {"data": {"name": "x"}})
    assert (
        data_difference(study, now, "x") == "the data of study 's' have changed since it began (in: validation, test)"
    )
    assert data_difference(study, now, "y") == (
        "y does not hold the data of study 's', which began with x (other: validation, test)"
    )
