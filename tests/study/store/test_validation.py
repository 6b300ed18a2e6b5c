"""What other programs have damaged in a storage counts as absent, or is diagnosed in one line."""

import math
import sqlite3
from contextlib import closing

import fake_study
import optuna
import pytest
from optuna.trial import TrialState

from dropopt.study.store.errors import StorageError
from dropopt.study.store.keys import BASE, CLASSES, CODE, MADE_WITH, PLAN, SECONDS, SEEDS, TRACE
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import Patience
from dropopt.study.store.queries import find_study
from dropopt.study.store.validation import _STUDY, _TRIAL, valid_study_attributes, valid_trial


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A SQLite file with a finished study."""
    path = tmp_path_factory.mktemp("whole") / "s.db"
    assert fake_study.run(f"sqlite:///{path}", n_trials=3, n_jobs=1) == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def changed(whole, tmp_path, *statements):
    """Write the finished study to a file, and change it with SQL; returns its URL."""
    path = tmp_path / "s.db"
    path.write_bytes(whole)
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


@pytest.mark.parametrize("value", [None, [[1]], {"x": {"y": 1}}, "text", -7, math.inf, True])
def test_an_attribute_of_a_wrong_type_counts_as_absent(value):
    """No value of any type remains where a reader does not expect it; attributes of other programs stay."""
    every = dict.fromkeys([*_TRIAL, "mine"], value)
    trial = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=every)
    kept = valid_trial(trial).user_attrs
    assert kept["mine"] == value
    assert (TRACE in kept) == isinstance(value, str)
    kinds = {type(kept[key]) for key in kept.keys() - {"mine"}}
    assert kinds <= {type(value)}
    assert trial.user_attrs == every  # a journal's trials are shared
    assert set(valid_study_attributes(dict.fromkeys(_STUDY, value))) < set(_STUDY)
    assert not valid_study_attributes(dict.fromkeys([CLASSES, SEEDS], value))


@pytest.mark.parametrize(("seconds", "kept"), [(0, True), (1.5, True), (-1, False), (-0.5, False), (math.inf, False)])
def test_a_trial_takes_no_negative_time(seconds, kept):
    """Nor an infinite one: sums of them are shown, and the time of a confirmation is estimated from them."""
    trial = optuna.trial.create_trial(value=0.5, user_attrs={SECONDS: seconds})
    assert (SECONDS in valid_trial(trial).user_attrs) == kept


def test_an_attribute_that_lacks_what_readers_need_counts_as_absent():
    """Reports read the recipe of training, the command that began the study, and the sources of its code."""
    config = {"data": {"name": "digits"}, "model": {"name": "small"}, "train": {"epochs": 2}}
    plan = {"n_trials": "4", "sampler": "tpe", "pruner": "none", "seed": 0}
    damaged = {BASE: config, MADE_WITH: {"command": 7}, CODE: [{"modules": {}}], PLAN: plan}
    assert not valid_study_attributes(damaged)
    whole = config | {"train": {"epochs": 2, "optimizer": "sgd", "batch_size": 8}}
    code = [{"since": 0, "modules": {"a": {"file": "a.py", "sha256": "0"}}}]
    mended = {BASE: whole, MADE_WITH: {"command": "dropopt run a", "cpus": 2}, CODE: code, PLAN: plan | {"n_trials": 4}}
    assert valid_study_attributes(mended) == mended


def test_a_study_with_damaged_attributes_goes_on(whole, tmp_path, capsys):
    """Attributes of the trials, and those of the study that a resumed study does not need, are damaged."""
    kinds = ["'retry_of'", "'previous'", "'attempt'", "'anchor'", "'seconds'", "'reason'"]
    url = changed(
        whole,
        tmp_path,
        f"DELETE FROM trial_user_attributes WHERE key IN ({', '.join(kinds)})",
        *(
            f"INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, {key}, '[[1]]' FROM trials"
            for key in kinds
        ),
        "UPDATE study_user_attributes SET value_json = '7' WHERE key IN ('facts', 'made_with', 'plan', 'command')",
        "DELETE FROM trial_values WHERE trial_id = 1",
    )
    assert fake_study.run(url, n_trials=4, n_jobs=1) == 0
    assert "study fake: 3 complete, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM trials WHERE number = 1", "trial 1 of the study was deleted"),
        ("UPDATE trial_user_attributes SET value_json = '{oops' WHERE trial_id = 2", "trial 1 cannot be read"),
        ("UPDATE trial_params SET distribution_json = '{}' WHERE trial_id = 3", "trial 2 cannot be read"),
        ("UPDATE study_user_attributes SET value_json = '{oops'", "a study cannot be read"),
    ],
)
def test_damage_is_diagnosed_in_one_line(whole, tmp_path, statement, message):
    """A resumed study names the damage; so does a command that only reads, unless it can do without."""
    url = changed(whole, tmp_path, statement)
    with pytest.raises(StorageError, match=message):
        fake_study.run(url, n_trials=4, n_jobs=1)
    with closing(Opened(url, create=False)) as opened:
        if "deleted" in message:
            assert [trial.number for trial in find_study(opened.storage, "fake").get_trials()] == [0, 2]
        else:
            with pytest.raises(StorageError, match="cannot be read from the storage"):
                find_study(opened.storage, "fake").get_trials()
    with closing(Opened(url, patience=Patience())) as opened:  # the file can still be opened
        assert opened.exclusive
