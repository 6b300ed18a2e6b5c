"""The format ``python`` of ``dropopt export``: each program runs as it is written, whatever the study trains."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path

import pytest

from dropopt.config import ConfigError, RunConfig
from dropopt.export import kind_of
from dropopt.pythonfile import python_text
from dropopt.trust import remember, sources

SMALL = {"epochs": 2, "batch_size": 16, "device": "cpu"}
TAYLOR = {"r0": 0.3, "allocation": "importance", "importance": "taylor"}
GRADIENT = {"r0": 0.3, "allocation": "importance", "importance": "gradient", "update_every": 1}
CASES = {
    "plain": {"data": {"name": "digits", "subset": 100}, "engine": GRADIENT},
    "baseline": {"data": {"name": "digits", "subset": 100}, "engine": {"kind": "dropout2d", "p": 0.2}},
    "torchvision": {
        "data": {"name": "digits", "subset": 60, "image_size": 32},
        "model": {"name": "torchvision:squeezenet1_1"},
        "train": {**SMALL, "epochs": 1, "lr": 0.01, "augment": ["flip"], "amp": "bf16"},
    },
    "own metric": {
        "data": {"name": "other_tasks:regression"},
        "model": {"name": "other_tasks:image_network"},
        "task": {"loss": "other_tasks:halved", "metric": "other_tasks:worst", "direction": "minimize"},
        "train": {**SMALL, "lr": 0.01, "lr_scale": {"0.*": 0}},
    },
    "signals": {
        "data": {"name": "other_tasks:signals"},
        "model": {"name": "other_tasks:signal_network"},
        "engine": TAYLOR,
    },
    "loss alone": {
        "data": {"name": "other_tasks:regression"},
        "model": {"name": "other_tasks:image_network"},
        "task": {"loss": "mse_loss"},
    },
    "masks": {
        "data": {"name": "other_tasks:masks"},
        "model": {"name": "other_tasks:mask_network"},
        "task": {"metric": "other_tasks:overlap", "objective": "metric"},
    },
    "several inputs": {"data": {"name": "other_tasks:named_inputs"}, "model": {"name": "other_tasks:two_branches"}},
    "read in each epoch": {
        "data": {"name": "other_tasks:signals", "in_memory": False},
        "model": {"name": "other_tasks:signal_network"},
        "engine": GRADIENT,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_program_runs(tmp_path, monkeypatch, capsys, case):
    """From any folder, with the functions of the user's script; it ends with the network that it trained."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("dropopt.owncode._files", {})
    run = RunConfig.parse({"train": SMALL, **CASES[case]})
    found = sources(run.names)
    remember(found.values())
    path = tmp_path / "best.py"
    code = {module: source.plain() for module, source in found.items()}
    path.write_text(python_text(run, {"study": "s", "trial": 1, "code": code}))
    end = runpy.run_path(str(path))
    assert len(path.read_text().splitlines()) < 75
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"epoch {run.train.epochs} of {run.train.epochs}: loss ")
    assert (f", {run.task.score} " in last) == (run.task.score != "loss")
    assert all(parameter.isfinite().all() for parameter in end["model"].parameters())
    if "lr_scale" in CASES[case].get("train", {}):
        assert [p.requires_grad for p in end["model"][0].parameters()] == [False, False]


def test_code_that_the_user_has_not_run_is_not_named(tmp_path, monkeypatch):
    """A storage of someone else's cannot make the program import a file; names cannot hold code."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    evil = tmp_path / "evil.py"
    evil.write_text("")
    settings = {"data": {"name": "evil:data"}, "task": {"metric": "evil:{exit()}"}}
    recorded = {"evil": {"file": str(evil), "sha256": hashlib.sha256(b"").hexdigest()}}
    text = python_text(RunConfig.parse(settings), {"study": "s", "trial": 1, "code": recorded})
    assert "use_file" not in text
    assert "put this file beside your script" in text
    assert ", metric {metric:.4f}" in text
    assert "exit()" not in text.replace(repr("evil:{exit()}"), "").replace("# 'evil:data', 'evil:{exit()}'", "")


def test_a_configuration_is_not_written_to_a_program():
    """``dropopt train best.py`` could not read it."""
    with pytest.raises(ConfigError, match=r"a \.py file holds a program; give --format python, or -o best\.yaml"):
        kind_of(Path("best.py"), "yaml")
