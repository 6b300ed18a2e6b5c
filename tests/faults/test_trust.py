"""Data never run code: names in files and storages, YAML tags and aliases, files that have the names of packages."""

import os
import pickle
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import optuna
import pytest

from dropopt import trust
from dropopt.config import ConfigError
from dropopt.export import load
from dropopt.owncode import own_function
from dropopt.study.define.space import Space
from dropopt.yamlfile import read

SHIPPED = Path(__file__).parents[2] / "studies"
#: Like the console script: the import path has neither the current folder nor the script's.
DROPOPT = [sys.executable, "-P", "-c", "from dropopt.cli import main; main()"]
EVIL = "open({proof!r}, 'w').close()\ndef model(classes): pass\ndef data(): pass\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Use an empty working folder, without a record of the files that were run before."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    for name in ("own_model", "evilmod"):
        sys.modules.pop(name, None)


def call(*arguments, program=DROPOPT):
    """Run a command; returns its exit code and its output."""
    done = subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, stdin=-3
    )
    return done.returncode, done.stdout + done.stderr


def evil(path="evilmod.py"):
    """Write a module that leaves a file behind when it is imported. Returns that file."""
    proof = Path("imported").absolute()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(EVIL.format(proof=str(proof)))
    return proof


def own_study(widths="8"):
    """Copy the example with other widths, run it for one trial and export the trial."""
    script = Path("proj", "own_model.py")
    script.parent.mkdir(exist_ok=True)
    script.write_text((SHIPPED / "own_model.py").read_text().replace("24", widths))
    code, output = call("run", script, "--n-trials", 1, "--epochs", 1, "--n-jobs", 1)
    assert code == 0, output
    return script


def test_train_uses_the_network_of_the_study(monkeypatch, dropopt):
    """The script of the study is imported, not the shipped one of the same name, unless it has changed.

    A user who has not run it before must name it or allow it.
    """
    import torch

    script = own_study()
    assert dropopt("export", "-o", "best.yaml")[0] == 0
    code, out, err = dropopt("train", "best.yaml", "-o", "model.pt")
    assert (code, err) == (0, "")
    assert f"code of own_model: {script.absolute()}" in out
    assert torch.load("model.pt")["0.weight"].shape[0] == 8

    settled(code_said := f"code of own_model: {script.absolute()}")
    settled(f"{code_said}; it differs", code=["proj"], edit=script)
    refused("that file has changed; give its script with --code PATH", trust=True)
    script.write_text(script.read_text().rstrip() + "\n")
    settled(code_said)
    monkeypatch.setenv("XDG_STATE_HOME", "other")
    refused(f"would be imported from {script.absolute()}; to allow it, give --code")
    settled(code_said, trust=True)
    script.unlink()
    refused("it was not found (", trust=True)
    code, out, err = dropopt("train", "best.yaml")
    assert code == 2
    assert (out + err).count("\n") == 2, "the header and one line"


def settled(expected, edit=None, code=(), **options):
    """Settle the code of best.yaml, which must begin with the line ``expected``."""
    if edit is not None:
        edit.write_text(edit.read_text() + "\n")
    exported = load("best.yaml")
    names = (exported.data.name, exported.model.name)
    lines = trust.settle(names, exported.provenance["code"], given="x", code=[Path(c) for c in code], **options)
    assert [line.startswith(expected) for line in lines] == [True]


def refused(message, **options):
    """Settle the code of best.yaml, which must fail with ``message``."""
    with pytest.raises(ConfigError) as caught:
        settled("", **options)
    assert message in str(caught.value)


def test_a_module_beside_a_file_is_not_imported(dropopt):
    """A configuration file that names a module of its folder says so and stops."""
    proof = evil()
    Path("best.yaml").write_text("model: {name: 'evilmod:model'}")
    code, _, err = dropopt("train", "best.yaml")
    assert code == 2
    assert f"would be imported from {Path('evilmod.py').absolute()}" in err
    assert not proof.exists()
    dropopt("train", "best.yaml", "--trust")
    assert proof.exists()


def test_provenance_does_not_make_a_file_trusted(dropopt):
    """A file cannot vouch for its own code with a path and the right hash."""
    proof = evil()
    source = trust.Source(Path("evilmod.py").absolute(), trust._digest(Path("evilmod.py")))
    text = f"model: {{name: 'evilmod:model'}}\nprovenance: {{code: {{evilmod: {source.plain()}}}}}"
    Path("best.yaml").write_text(text)
    assert dropopt("train", "best.yaml")[0] == 2
    assert not proof.exists()


def test_the_question_is_answered():
    """The question names the file, and the answer decides."""
    evil()
    questions = []

    def settle(answer):
        def ask(question):
            questions.append(question)
            return answer

        return trust.settle(["evilmod:model"], None, given="a.yaml", ask=ask)

    with pytest.raises(ConfigError, match="to allow it, give --code"):
        settle(answer=False)
    assert settle(answer=True) == [f"code of evilmod: {Path('evilmod.py').absolute()}"]
    assert questions[0] == f"a.yaml names the module 'evilmod'. Import it from {Path('evilmod.py').absolute()}?"


@pytest.mark.parametrize("module", ["../evilmod", "/tmp/evilmod", "..evilmod", ".", "", "evil\0mod", "a/../../evilmod"])
def test_names_stay_in_their_folder(module):
    """No name of a module leads out of the current folder or of a folder given with --code."""
    evil("../evilmod.py")
    for code in ((), (Path(),)):
        with pytest.raises(ConfigError):
            trust.settle([f"{module}:model"], None, given="x", code=code, trust=True)
    with pytest.raises(ConfigError):
        own_function(f"{module}:model")


def test_files_with_the_names_of_packages_are_not_run():
    """Files such as ``torch.py`` in the current folder or beside the script do not shadow the packages."""
    for name in ("torch", "sklearn", "numpy", "optuna", "yaml", "scipy", "typer", "json", "pandas"):
        proof = evil(f"{name}.py")
        if name != "pandas":  # optional for some packages: beside the user's own script, it is the user's own
            evil(f"proj/{name}.py")
    Path("best.yaml").write_text("train: {epochs: 1}\ndata: {subset: 300}")
    code, output = call("train", "best.yaml", program=[sys.executable, "-m", "dropopt"])
    assert code == 0, output
    shutil.copy(SHIPPED / "own_model.py", "proj/own_model.py")
    code, output = call("run", "proj/own_model.py", "--n-trials", 1, "--epochs", 1, "--n-jobs", 1)
    assert code == 0, output
    assert not proof.exists()


TAGS = (
    "!!python/object/apply:os.system ['touch imported']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/new:type [z, [], {}]",
    "{model: !!python/tuple [1]}",
    "{model: {name: !exec x}}",
)
#: A list of nine lists of nine lists ...: 4 GB of text, if aliases were expanded.
LAUGHS = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in pairwise("abcdefghi"))


@pytest.mark.parametrize("text", [*TAGS, LAUGHS, "&a [*a]", "[" * 100_000, "x: " * 400_000])
def test_yaml_is_only_data(text):
    """Tags, aliases, merge keys and deep nesting are errors of one line, at once."""
    path = Path("file.yaml")
    path.write_text(text)
    for reader in (load, lambda file: read(Path(file)), Space.load):
        with pytest.raises(ConfigError) as caught:
            reader(str(path))
        assert str(caught.value).startswith("file.yaml")
        assert "\n" not in str(caught.value)
    assert not Path("imported").exists()


class Evil:
    """An object whose pickle runs a command."""

    def __reduce__(self):
        return os.system, ("touch imported",)


def test_a_pickle_in_a_shared_storage_is_not_read(dropopt):
    """A study whose trials hold an evil pickle where CMA-ES keeps its state: the run stops before it reads it."""
    study = optuna.create_study(study_name="digits", storage="sqlite:///shared.db")
    trial = study.ask()
    state = pickle.dumps(Evil()).hex()
    for key in ("cma:optimizer:0", "cma:optimizer"):
        study._storage.set_trial_system_attr(trial._trial_id, key, state)
    study.tell(trial, 0.0)
    study._storage.remove_session()
    study._storage._backend.engine.dispose()
    Path("shared.db").chmod(0o666)
    code, out, err = dropopt("run", "digits", "--sampler", "cmaes", "--storage", "shared.db")
    assert (code, out) == (2, "")
    assert err.startswith("dropopt: the sampler cmaes reads pickles")
    assert not Path("imported").exists()
