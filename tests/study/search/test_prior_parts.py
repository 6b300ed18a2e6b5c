"""What a prior passes on: the values that the new space contains, and the file that holds it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from blend_study import random_study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dropopt.config import ConfigError
from dropopt.study.blend.learned import export_evidence, top_configurations
from dropopt.study.search.prior import Prior, load_prior, prior_of
from dropopt.study.store.keys import PRIOR, SOURCE


def space(**distributions: BaseDistribution) -> Any:
    """A space that needs to know the number of classes, 7, for its ranges."""

    def parameter(name: str, distribution: BaseDistribution) -> Any:
        return SimpleNamespace(name=name, distribution=lambda classes: {7: distribution}[classes])

    return SimpleNamespace(parameters=[parameter(*item) for item in distributions.items()])


def test_only_legal_values_are_enqueued() -> None:
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


def test_a_file_holds_the_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_file_that_is_not_a_prior(tmp_path: Path, text: str, error: str) -> None:
    """The error names the file, what should have written it, and the fault."""
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_prior(str(path), "sqlite:///none.db")
    assert str(raised.value).startswith(f"prior {path} is not a file written by dropopt efficacy -o: {error}")
    with pytest.raises(ConfigError) as missing:
        load_prior(str(tmp_path / "no.json"), "sqlite:///none.db")
    assert str(missing.value) == f"prior {tmp_path / 'no.json'} cannot be read: No such file or directory"


def test_a_prior_from_a_storage(tmp_path: Path) -> None:
    """STUDY is read from the default storage and STUDY@STORAGE from the other; neither is created."""
    first, second = (f"sqlite:///{tmp_path}/{name}.db" for name in ("first", "second"))
    for url, count in ((first, 9), (second, 11)):
        study = optuna.create_study(storage=url, study_name="s")
        study.add_trials(random_study(count).trials)
    assert len(load_prior("s", first).evidence["rows"]) == 9
    assert len(load_prior(f"s@{second}", first).evidence["rows"]) == 11
    with pytest.raises(ConfigError, match="no study 'nothing' in this storage; known: s"):
        load_prior("nothing", first)
    with pytest.raises(ConfigError, match="no storage at"):
        load_prior("s", f"sqlite:///{tmp_path}/third.db")
    assert not (tmp_path / "third.db").exists()
