"""What a prior passes on: its file, the values that the new space contains, and the study that begins with it."""

import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import fake_study
import optuna
import pytest
from blend_study import random_study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend.effects import learn
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import Learned, export_evidence, top_configurations
from dropopt.study.command.efficacy import efficacy
from dropopt.study.search.prior import Prior, load_prior, prior_of
from dropopt.study.show import page as display
from dropopt.study.show import style
from dropopt.study.show.figures import figures
from dropopt.study.store.keys import PRIOR, SOURCE


def space(**distributions):
    """A space that needs to know the number of classes, 7, for its ranges."""
    parameters = [
        SimpleNamespace(name=name, distribution=lambda classes, one=one: {7: one}[classes])
        for name, one in distributions.items()
    ]
    return SimpleNamespace(parameters=parameters)


def test_only_legal_values_are_enqueued():
    """Values outside a range, of another type or of another parameter are left out; equal configurations run once."""
    configurations = [
        {"x": 0.5, "n": 3, "kind": "p", "other": 1},
        {"x": 2.0, "n": "three", "kind": "r"},
        {"x": 1.0, "n": 9, "kind": None},
        {"x": 0.5, "n": 3, "kind": "p", "other": 2},
        {"other": 3},
    ]
    study, kinds = optuna.create_study(), CategoricalDistribution(["p", "q"])
    searched = space(x=FloatDistribution(0, 1), n=IntDistribution(1, 5), kind=kinds, y=IntDistribution(0, 1))
    for _ in range(2):
        Prior("earlier", {"rows": [1]}, configurations).apply_to(study, searched, 7)
    fixed = [trial.system_attrs["fixed_params"] for trial in study.trials]
    assert fixed == [{"x": 0.5, "n": 3, "kind": "p"}, {"x": 1.0}]
    assert [trial.user_attrs for trial in study.trials] == [{SOURCE: "earlier"}] * 2
    assert study.user_attrs == {PRIOR: {"rows": [1]}}


def test_a_file_holds_the_prior(tmp_path, monkeypatch):
    """The prior of a study is its name, its evidence and its three best configurations, and survives a file."""
    study = random_study(12)
    prior = prior_of(study)
    assert (prior.source, prior.evidence) == (study.study_name, export_evidence(study))
    assert prior.configurations == top_configurations(study, 3)
    prior.save(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert text.splitlines()[1] == f' "source": "{study.study_name}",'
    assert json.loads(text)["evidence"] == prior.evidence
    assert load_prior(str(tmp_path / "p.json"), "sqlite:///none.db") == prior
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_prior("~/p.json", "sqlite:///none.db") == prior


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "JSONDecodeError("),
        ("[]", "TypeError("),
        ("[" * 100_000, "RecursionError("),
        ('{"source": "s", "evidence": {}}', "KeyError('configurations')"),
        ('{"source": "s", "evidence": 5, "configurations": []}', "TypeError("),
        ('{"source": "s", "evidence": {}, "configurations": [3]}', "TypeError("),
    ],
)
def test_a_file_that_is_not_a_prior(tmp_path, text, error):
    """The error names the file, what should have written it, and the fault."""
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_prior(str(path), "sqlite:///none.db")
    assert str(raised.value).startswith(f"prior {path} is not a file written by dropopt efficacy -o: {error}")
    with pytest.raises(ConfigError) as missing:
        load_prior(str(tmp_path / "no.json"), "sqlite:///none.db")
    assert str(missing.value) == f"prior {tmp_path / 'no.json'} cannot be read: No such file or directory"


def test_a_prior_from_a_storage(tmp_path):
    """STUDY is read from the default storage and STUDY@STORAGE from the other; neither is created."""
    first, second = (f"sqlite:///{tmp_path}/{name}.db" for name in ("first", "second"))
    for url, count in ((first, 2), (second, 3)):
        optuna.create_study(storage=url, study_name="s").add_trials(random_study(count).trials)
    assert len(load_prior("s", first).evidence["rows"]) == 2
    assert len(load_prior(f"s@{second}", first).evidence["rows"]) == 3
    with pytest.raises(ConfigError, match="no study 'nothing' in this storage; known: s"):
        load_prior("nothing", first)
    with pytest.raises(ConfigError, match="no storage at"):
        load_prior("s", f"sqlite:///{tmp_path}/third.db")
    assert not (tmp_path / "third.db").exists()


BLEND = """
engine:
  r0: {low: 0.0, high: 0.5}
  w_adaptive: {low: 0.0, high: 1.0}
  w_structured: {low: 0.0, high: 1.0}
  w_pfid: {low: 0.0, high: 1.0}
"""


WEIGHTS = ("w_adaptive", "w_structured", "w_pfid")


def loss(trial):
    """A loss that w_adaptive lowers and w_pfid raises; the other parameters have no effect."""
    weights = [trial.suggest_float(name, 0, 1) for name in WEIGHTS]
    trial.suggest_float("r0", 0.0, 0.5)
    return 1.0 + (weights[2] - weights[0]) / sum(weights)


@pytest.fixture(scope="module")
def source():
    """A study in which w_adaptive is the best method."""
    study = optuna.create_study(study_name="source", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(loss, n_trials=20)
    return study


@pytest.fixture
def storage(source, here):
    """The URL of a storage with a copy of that study, in the current folder."""
    optuna.copy_study(from_study_name="source", from_storage=source._storage, to_storage="sqlite:///studies.db")
    return "sqlite:///studies.db"


def stored(storage, name):
    return optuna.load_study(study_name=name, storage=storage)


@pytest.fixture
def options(tmp_path):
    """Of a new study of a blend."""
    space = tmp_path / "blend.yaml"
    space.write_text(BLEND)
    return {"name": "new", "space": str(space), "sampler": "efficacy"}


def test_a_figure_by_stage_has_room_for_its_rows():
    """Five methods in three stages give 15 labelled rows, and a long verdict is wrapped."""
    names = tuple(tuple(f"w_{method}_{stage}" for method in METHODS) for stage in STAGES)
    table = gather([], names, maximise=False)
    found = replace(learn(table), trials=99, matters=0.9)
    picture = figures(Learned(found, {}, ()))["dropopt-effects"]
    assert list(picture.data[0].y) == [name for stage in names for name in stage]
    assert max(len(line) for line in picture.layout.title.text.split("<br>")) <= style.LINE + len("<sub></sub>")


def test_a_fault_in_the_prior_is_reported(source):
    """Only a study without a blend is skipped; a prior that cannot be read is an error."""
    study = optuna.create_study(study_name="source")
    study.add_trials(source.trials)
    study.set_user_attr(PRIOR, {"rows": []})
    with pytest.raises(ConfigError, match=r"^study 'source': a prior must be a dictionary from export_evidence"):
        display.refresh(study)


def test_the_file_of_efficacy_is_the_prior_of_the_study(storage, source, tmp_path):
    """``dropopt efficacy -o`` writes it."""
    efficacy("source", tmp_path / "learned.json", storage)
    assert load_prior(str(tmp_path / "learned.json"), storage) == prior_of(source)


def test_a_new_study_starts_from_a_prior(storage, source, options):
    """The best configurations of the source run first, and the evidence is stored in the study for all its workers."""
    assert fake_study.run(storage, 1, **options, n_trials=4, prior="source") == 0
    new, prior = stored(storage, "new"), prior_of(source)
    assert [trial.params for trial in new.trials[:3]] == prior.configurations
    assert [trial.user_attrs.get("from") for trial in new.trials] == ["source"] * 3 + [None]
    assert new.user_attrs[PRIOR] == json.loads(json.dumps(prior.evidence))
    # The same command resumes the study and enqueues nothing twice.
    assert fake_study.run(storage, 1, **options, n_trials=6, prior="source") == 0
    assert sum("from" in trial.user_attrs for trial in stored(storage, "new").trials) == 3
    # A prior that was changed is reported with its study before its next trial.
    new.set_user_attr(PRIOR, {"rows": []})
    with pytest.raises(ConfigError, match=r"^study 'new': a prior must be a dictionary from export_evidence"):
        fake_study.run(storage, 1, **options, n_trials=7)


def test_a_study_keeps_the_prior_it_began_with(storage, options):
    """A study that began without a prior cannot get one later, so that all its workers use the same evidence."""
    assert fake_study.run(storage, 1, **options, n_trials=1) == 0
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
