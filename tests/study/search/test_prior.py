"""What a study learned is reported, shown on the dashboard and passed on to other studies."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import fake_study
import optuna
import pytest

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend.effects import learn
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import Learned
from dropopt.study.command.efficacy import efficacy
from dropopt.study.search.prior import load_prior, prior_of
from dropopt.study.show import page as display
from dropopt.study.show import style
from dropopt.study.show.figures import figures
from dropopt.study.store.keys import PRIOR
from dropopt.study.store.opening import Opened

BLEND = """
engine:
  r0: {low: 0.0, high: 0.5}
  w_adaptive: {low: 0.0, high: 1.0}
  w_structured: {low: 0.0, high: 1.0}
  w_pfid: {low: 0.0, high: 1.0}
"""


def loss(trial: optuna.Trial) -> float:
    """A loss that w_adaptive lowers and w_pfid raises; the other parameters have no effect."""
    weights = {name: trial.suggest_float(name, 0, 1) for name in ("w_adaptive", "w_structured", "w_pfid")}
    total = sum(weights.values()) or 1.0
    trial.suggest_float("r0", 0.0, 0.5)
    return 1.0 + (weights["w_pfid"] - weights["w_adaptive"]) / total


@pytest.fixture(name="learned_file", scope="module")
def _learned_file(tmp_path_factory):
    """A storage with a study called `source`, in which w_adaptive is the best method."""
    path = tmp_path_factory.mktemp("source") / "studies.db"
    with closing(Opened(f"sqlite:///{path}")) as opened:
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(storage=opened.storage, study_name="source", sampler=sampler)
        study.optimize(loss, n_trials=60)
    return path


@pytest.fixture(name="storage")
def _storage(learned_file, tmp_path, monkeypatch):
    """The URL of a copy of that storage, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(learned_file, tmp_path / "studies.db")
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(name="options")
def _options(tmp_path):
    """Of a new study of a blend."""
    space = tmp_path / "blend.yaml"
    space.write_text(BLEND)
    return {"name": "new", "space": str(space), "sampler": "efficacy"}


def source(url: str) -> optuna.Study:
    return optuna.load_study(study_name="source", storage=url)


def test_a_figure_by_stage_has_room_for_its_rows():
    """Five methods in three stages give 15 labelled rows, and a long verdict is wrapped."""
    names = tuple(tuple(f"w_{method}_{stage}" for method in METHODS) for stage in STAGES)
    table = gather([], names, maximise=False)
    found = replace(learn(table), trials=99, matters=0.9)
    picture = figures(Learned(found, {}, ()))["dropopt-effects"]
    assert list(picture.data[0].y) == [name for stage in names for name in stage]
    assert max(len(line) for line in picture.layout.title.text.split("<br>")) <= style.LINE + len("<sub></sub>")


def test_a_fault_in_the_prior_is_reported(storage):
    """Only a study without a blend is skipped; a prior that cannot be read is an error."""
    study = source(storage)
    study.set_user_attr(PRIOR, {"rows": []})
    with pytest.raises(ConfigError, match=r"^study 'source': a prior must be a dictionary from export_evidence"):
        display.refresh(study)


def test_a_prior_that_was_changed_is_reported_with_its_study(storage, options):
    """Before its next trial."""
    assert fake_study.run(storage, 1, **options, n_trials=1, prior="source") == 0
    study = optuna.load_study(study_name="new", storage=storage)
    study.set_user_attr(PRIOR, {"rows": []})
    with pytest.raises(ConfigError, match=r"^study 'new': a prior must be a dictionary from export_evidence"):
        fake_study.run(storage, 1, **options, n_trials=2)


def test_the_file_of_efficacy_is_the_prior_of_the_study(storage, tmp_path):
    """``dropopt efficacy -o`` writes it."""
    efficacy("source", tmp_path / "learned.json", storage)
    assert load_prior(str(tmp_path / "learned.json"), storage) == prior_of(source(storage))


def test_a_new_study_starts_from_a_prior(storage, options):
    """The best configurations of the source run first, and the evidence is stored in the study for all its workers."""
    options["prior"] = "source"
    assert fake_study.run(storage, 1, **options, n_trials=4) == 0
    new = optuna.load_study(study_name="new", storage=storage)
    best = prior_of(source(storage)).configurations
    assert [trial.params for trial in new.trials[:3]] == best
    assert all(trial.user_attrs["from"] == "source" for trial in new.trials[:3])
    assert "from" not in new.trials[3].user_attrs
    assert new.user_attrs[PRIOR] == json.loads(json.dumps(prior_of(source(storage)).evidence))
    # The same command resumes the study and enqueues nothing twice.
    assert fake_study.run(storage, 1, **options, n_trials=6) == 0
    assert sum("from" in t.user_attrs for t in optuna.load_study(study_name="new", storage=storage).trials) == 3


def test_a_study_keeps_the_prior_it_began_with(storage, options):
    """A study that began without a prior cannot get one later, so that all its workers use the same evidence."""
    assert fake_study.run(storage, 1, **options, n_trials=2) == 0
    with pytest.raises(ConfigError, match="study 'new' began without a prior; give another --study-name, or no"):
        fake_study.run(storage, 1, **options, n_trials=4, prior="source")


def test_progress_is_shown_on_a_terminal(storage, monkeypatch, capsys):
    """A message is shown on a terminal while the effects are computed, and none in a pipe."""
    efficacy("source", None, storage)
    assert "analysing" not in "".join(capsys.readouterr())
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    efficacy("source", None, storage)
    assert "analysing the trials" in shown.getvalue()
