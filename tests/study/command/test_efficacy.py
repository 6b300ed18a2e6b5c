"""``dropopt efficacy``: a study without a blend, and one that began with a prior."""

import io
import json
import shlex

import optuna
import pytest
from blend_study import random_study
from rich.console import Console

from dropopt.config import ConfigError
from dropopt.study import efficacy_report, export_evidence, learned, study_effects
from dropopt.study.command.efficacy import efficacy
from dropopt.study.search.prior import load_prior
from dropopt.study.show.effects_table import effect_rows
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import COMMAND, PLAN, PRIOR


@pytest.fixture
def journal(tmp_path):
    """A storage, in the file ``study.log``."""
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))


@pytest.fixture
def storage(tmp_path, journal):
    """The file of a storage with one study of six trials."""
    study = optuna.create_study(storage=journal, study_name="plain")
    study.optimize(lambda trial: 1 + trial.suggest_float("p", 0.0, 0.7), n_trials=6)
    return str(tmp_path / "study.log")


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


def test_the_line_that_starts_another_study_works(tmp_path, journal, capsys):
    """``--prior FILE`` of the printed line reads the file."""
    optuna.create_study(storage=journal, study_name="blend").add_trials(random_study(9).trials)
    efficacy(storage=str(tmp_path / "study.log"), output=tmp_path / "my learned.json")
    option, value = shlex.split(capsys.readouterr().out.splitlines()[-1])[-2:]
    assert (option, load_prior(value, "sqlite:///nowhere.db").source) == ("--prior", "blend")


@pytest.mark.parametrize("name", ["learned.txt", "learned"])
def test_a_name_that_prior_would_take_for_a_study_is_refused(storage, tmp_path, name):
    with pytest.raises(ConfigError, match=r"the name must end in \.json, from which --prior knows"):
        efficacy(storage=storage, output=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_prior_of_a_study_counts(tmp_path, journal, capsys):
    """As text and as JSON, the effects are those of the trials together with the evidence that the study began with."""
    study = optuna.create_study(storage=journal, study_name="blend")
    study.add_trials(random_study(20).trials)
    prior = export_evidence(random_study(40, effect=-3.0, seed=1))
    study.set_user_attr(PRIOR, prior)
    expected = learned(study, prior=prior)
    assert expected.efficacy.methods != learned(study).efficacy.methods
    efficacy(study="blend", storage=str(tmp_path / "study.log"), as_json=True)
    assert json.loads(capsys.readouterr().out)["methods"] == json.loads(json.dumps(expected.as_dict()))["methods"]
    efficacy(study="blend", storage=str(tmp_path / "study.log"), everything=True)
    text = capsys.readouterr().out
    for _, (mean, interval, _) in effect_rows(expected.efficacy.methods[0]):
        assert (mean in text, interval in text) == (True, True)


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_tables_without_a_finding_are_left_out(tmp_path, capsys, effect):
    """Unless --all is given. A line to type goes on."""
    url, line = f"sqlite:///{tmp_path / 's.db'}", "dropopt run digits"
    study = optuna.create_study(storage=url)
    study.set_user_attr(PLAN, {"n_trials": 40, "sampler": "auto", "pruner": "median", "seed": 0})
    study.set_user_attr(COMMAND, line)
    study.add_trials(random_study(40, effect=effect, shuffle=not effect).trials)
    efficacy(storage=url)
    short = capsys.readouterr().out
    efficacy(storage=url, everything=True)
    full = capsys.readouterr().out
    for table in ("Which parameter matters", "Synergy", "Preferred blend"):
        assert table in full
        assert (table in short) == bool(effect)
    assert (f"go on   {line} --n-trials 80" in short) == (not effect)
    assert "go on" not in full


def test_the_line_to_go_on_gets_the_trials_that_are_missing(tmp_path, capsys):
    """More than the study has: with fewer, the answer would be the same again."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    study = optuna.create_study(storage=url)
    study.set_user_attr(PLAN, {"n_trials": 4, "sampler": "auto", "pruner": "median", "seed": 0})
    study.set_user_attr(COMMAND, "dropopt run digits")
    study.add_trials(random_study(4).trials)
    needed = max(study_effects(study).needed, learned(study).efficacy.needed)
    assert needed > 2 * 4
    efficacy(storage=url)
    assert f"go on   dropopt run digits --n-trials {needed}" in capsys.readouterr().out


def test_names_in_square_brackets_are_shown() -> None:
    """They are no markup: names of parameters and of weights, choices, and the name of what is optimised."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    name_metric(study, "[red]loss")

    def value(trial: optuna.Trial) -> float:
        weights = [trial.suggest_float(name, 0, 1) for name in ("w_[b]", "w_[i]")]
        return weights[0] + (trial.suggest_categorical("[b]kind", ["[u]one", "two"]) == "two")

    study.optimize(value, n_trials=30)
    console = Console(file=io.StringIO(), width=200)
    console.print(efficacy_report(study))
    shown = " ".join(console.file.getvalue().split())  # titles are wrapped
    assert shown.count("w_[b]") >= 3
    for text in ("│ [b]kind", "[u]one 1.00", "in [red]loss)"):
        assert text in shown
