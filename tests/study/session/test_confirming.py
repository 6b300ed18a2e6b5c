"""``dropopt confirm``: fresh seeds, what it stores, interruptions, and the test set that is read once."""

import shutil
from contextlib import closing
from pathlib import Path

import fake_study
import pytest
from fake_confirm import confirm, start
from fake_study import trials
from optuna.trial import TrialState

from dropopt.config import ConfigError
from dropopt.study.confirm.runs import Run, make_runs, run_of
from dropopt.study.session import confirming
from dropopt.study.session.confirming import ConfirmRequest
from dropopt.study.store.keys import BASE, CLASSES, CONFIRMS, DATA
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study
from dropopt.study.store.url import resolve


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A journal file with a finished search with anchors."""
    path = tmp_path_factory.mktemp("finished") / "study.log"
    assert fake_study.run(str(path), n_jobs=1, n_trials=12, anchors=True) == 0  # one job: the same trials every time
    return path


@pytest.fixture
def searched(finished, here):
    """The storage of a finished search, in the working folder."""
    return shutil.copy(finished, "study.log")


def states(storage, name):
    found = [(run_of(trial), trial) for trial in trials(storage, name)]
    return {(run.configuration, run.repeat): trial for run, trial in found if trial.state == TrialState.COMPLETE}


def test_the_best_and_the_anchors_run_on_fresh_seeds(searched, capsys):
    """All configurations have the same seeds, which the search did not use; the winner has the lowest mean.

    The validation split is drawn with the seed as well, so that only the hash of the test split holds for all runs.
    The winner's networks are tested with the data they had.
    """
    code, found = confirm(searched)
    assert code == 0
    search, runs = trials(searched), states(searched, "fake-confirmed")
    anchors = [trial.number for trial in search if "anchor" in trial.user_attrs]
    assert len(anchors) >= 3
    assert {one.trial for one in found.configurations} > set(anchors)
    assert len(found.configurations) == len(anchors) + 2
    seeds = {repeat: Run(repeat, 0).seed for repeat in range(4)}
    assert not set(seeds.values()) & {trial.user_attrs["seed"] for trial in search}
    for (configuration, repeat), trial in runs.items():
        assert trial.user_attrs["seed"] == seeds[repeat]
        config = trial.user_attrs["config"]
        assert config["engine"] == search[configuration].user_attrs["config"]["engine"]
        assert config["data"] == search[configuration].user_attrs["config"]["data"] | {"validation_seed": seeds[repeat]}
        assert trial.user_attrs["val_ece"] == 0.1
    with closing(Opened(resolve(searched), create=False)) as opened:
        assert find_study(opened.storage, "fake-confirmed").user_attrs[DATA] == {"test": "b"}
    full = [one for one in found.configurations if one.validation.seeds == 4]
    assert found.winner is full[0] is min(full, key=lambda one: one.mean.mean)
    values = [runs[found.winner.trial, repeat].value for repeat in range(4)]
    assert found.winner.mean.mean == pytest.approx(sum(values) / 4)
    assert found.optimism == pytest.approx((found.winner.mean.mean - found.winner.searched) / found.winner.mean.mean)
    assert found.plain()["winner"] == found.winner.trial
    output = capsys.readouterr().out
    assert "is not trained further" in output  # the fake training has little noise, so the race ends early
    assert len(runs) < 4 * len(found.configurations)
    tested = trials(searched, "fake-tested")
    assert [trial.user_attrs["config"] for trial in tested] == [
        runs[found.winner.trial, repeat].user_attrs["config"] for repeat in range(4)
    ]


def test_a_confirmation_keeps_the_validation_split_it_began_with(searched):
    """That of an earlier version of dropopt has the search's for all seeds; its runs can still be compared."""
    with closing(Opened(resolve(searched), create=False)) as opened:
        search = find_study(opened.storage, "fake")
        make_runs(
            search, CONFIRMS, {name: search.user_attrs[name] for name in (BASE, CLASSES, DATA)}, "loss (smoothed)"
        )
    code, found = confirm(searched, seeds=2)
    runs = states(searched, "fake-confirmed")
    assert code == 0
    assert len(runs) == 2 * len(found.configurations)
    for trial in [*runs.values(), *trials(searched, "fake-tested")]:
        assert trial.user_attrs["config"]["data"]["validation_seed"] is None


def test_the_test_set_is_read_once(searched, capsys):
    """For the winner only. A second confirmation prints what was read; ``again`` reads it again."""
    assert not Path("study.log.checkpoints").exists()
    _, first = confirm(searched)
    tests = trials(searched, "fake-tested")
    assert [trial.params for trial in tests] == [
        {"configuration": first.winner.trial, "repeat": repeat} for repeat in range(4)
    ]
    assert first.tested.trial == first.winner.trial
    assert first.tested.test.loss == {i: trial.user_attrs["test_loss"] for i, trial in enumerate(tests)}
    capsys.readouterr()
    _, second = confirm(searched)
    assert "all runs have ended" in capsys.readouterr().out
    assert second == first
    assert len(trials(searched, "fake-tested")) == 4
    _, more = confirm(searched, seeds=5)
    assert more.tested == first.tested
    assert "the test split was read before, for another result; --again reads it" in capsys.readouterr().out
    _, again = confirm(searched, seeds=5, again=True)
    assert len(trials(searched, "fake-tested")) == 9
    assert again.tested.test.seeds == 5
    assert fake_study.trials(searched, "fake-tested")[-1].params["repeat"] == 4


def test_a_confirmation_goes_on_after_a_kill(searched):
    """After SIGKILL, the same command trains what is left, and no run twice."""
    with start(searched, 0.1, seeds=4) as first:
        assert any("(3 of " in line for line in first.stdout)
        first.kill()
    before = {key: trial.number for key, trial in states(searched, "fake-confirmed").items()}
    assert trials(searched, "fake-confirmed")[-1].state != TrialState.COMPLETE
    code, found = confirm(searched)
    assert code == 0
    after = [run_of(t) for t in trials(searched, "fake-confirmed") if t.state == TrialState.COMPLETE]
    assert len(after) == len(set(after)) > len(before)
    assert {key: states(searched, "fake-confirmed")[key].number for key in before} == before
    assert found.winner.validation.seeds == found.tested.test.seeds == 4


def test_accuracy_may_choose_the_winner(searched):
    """Although the search minimised the loss."""
    code, found = confirm(searched, optimise="accuracy", seeds=2, anchors=False)
    assert (code, found.optimise) == (0, "accuracy")
    assert found.winner.validation.objective == pytest.approx(
        {seed: 1 - value for seed, value in found.winner.validation.accuracy.items()}
    )


@pytest.mark.parametrize(("options", "slots"), [({"n_jobs": 1}, 1), ({"n_jobs": 3}, 3), ({"n_jobs": 99, "top": 1}, 2)])
def test_as_many_runs_at_a_time_as_asked(searched, options, slots, monkeypatch):
    """And no more processes than there are runs."""

    class Started(Exception):
        pass

    def pool(count, *_):
        raise Started(count)

    monkeypatch.setattr(confirming, "Pool", pool)
    with pytest.raises(Started) as started:
        confirm(searched, **{"seeds": 2, "anchors": False} | options)
    assert started.value.args == (slots,)


def test_a_configuration_that_fails_is_out(searched, monkeypatch):
    """A run without a result ends its configuration, not the confirmation. The next confirmation tries it again."""
    monkeypatch.setenv("FAKE_FAULT", "raise")  # for learning rates above 0.07
    code, found = confirm(searched, top=4, seeds=2, anchors=False)
    out = [one for one in trials(searched, "fake-confirmed") if one.state == TrialState.FAIL]
    assert out
    assert all(one.validation.seeds == 2 or one.out for one in found.configurations)
    assert code == int(found.winner is None)
    monkeypatch.delenv("FAKE_FAULT")
    code, found = confirm(searched, top=4, seeds=2, anchors=False)
    assert code == 0
    assert [(one.validation.seeds, one.out) for one in found.configurations] == [(2, "")] * 4


def test_a_run_that_diverged_is_not_tried_again(searched, monkeypatch, capsys):
    """It would diverge again. Judged by another value, the race begins anew, with the runs that are left."""
    options = {"top": 1, "seeds": 2, "n_jobs": 1, "anchors": False}
    monkeypatch.setenv("FAKE_FAULT", "nan")
    assert confirm(searched, **options)[0] == 1
    diverged, waiting = trials(searched, "fake-confirmed")
    assert (diverged.user_attrs["reason"], waiting.state) == ("NotFinite", TrialState.PRUNED)
    monkeypatch.delenv("FAKE_FAULT")
    capsys.readouterr()
    assert confirm(searched, **options)[0] == 1
    assert "all runs have ended" in capsys.readouterr().out
    assert confirm(searched, **options, optimise="accuracy")[0] == 1
    assert "at most 1 run of 8 epochs (1 has ended)" in capsys.readouterr().out
    assert [run_of(trial) for trial in trials(searched, "fake-confirmed")[2:]] == [run_of(waiting)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "seeds must be 2 or more, got 1"),
        ({"top": 0}, "top must be 1 or more, got 0"),
        ({"optimise": "speed"}, "optimise must be one of loss, accuracy, got speed"),
    ],
)
def test_bad_options(options, message):
    """What was given and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        ConfirmRequest(study=None, storage=None, **options)


def test_a_confirmation_is_not_a_search(searched):
    """It is not confirmed itself, and it is not in the way where the only study is meant."""
    for _ in range(2):
        assert confirm(searched, seeds=2, top=1, study=None, anchors=False)[0] == 0
    for name in ("fake-confirmed", "fake-tested"):
        with pytest.raises(ConfigError, match=f"study '{name}' is itself a confirmation; give --study fake"):
            confirm(searched, study=name)
