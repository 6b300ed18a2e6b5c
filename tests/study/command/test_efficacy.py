"""``dropopt efficacy`` on a study without a blend."""

import json

import optuna
import pytest

from dropopt.config import ConfigError
from dropopt.study.command.efficacy import efficacy


@pytest.fixture
def storage(tmp_path):
    """The file of a storage with one study of six trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="plain")
    study.optimize(lambda trial: 1 + trial.suggest_float("p", 0.0, 0.7), n_trials=6)
    return str(path)


def test_a_study_without_a_blend_is_answered(storage, capsys):
    """The command succeeds, as text and as JSON."""
    efficacy(study="plain", storage=storage)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Which dropout, where, when: Not searched in this study."
    assert lines[1].startswith("How much, whether at all: Too few trials to say: 6")
    efficacy(storage=storage, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == "plain"
    assert set(found["effects"]["answers"]) == {"which", "how much", "where", "when", "whether"}
    assert "verdict" not in found


def test_a_prior_needs_a_blend(storage, tmp_path, capsys):
    """A file for --prior is about a blend: without one it is refused and not written."""
    file = tmp_path / "learned.json"
    with pytest.raises(ConfigError, match="no blend in this study"):
        efficacy(storage=storage, output=file)
    assert not file.exists()
