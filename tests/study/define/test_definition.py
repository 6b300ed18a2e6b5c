"""The study of a script, the files that a name means, and the configuration that all trials share."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from spaces import space_of
from torch import nn

from dropopt.config import Baseline, ConfigError, RunConfig, TaskConfig
from dropopt.study import Study
from dropopt.study.command.script import StudyFields
from dropopt.study.define import shipped
from dropopt.study.define.script import load
from dropopt.study.define.space import Space

#: Some of them are a folder, or cannot be the name of a file.
NO_STUDIES = ("resnet18x", ".", "", "/", "x" * 300)


def test_a_name_means_a_file_or_a_shipped_one(here, tmp_path, monkeypatch):
    """A file in the current folder, then one beside the script, then a shipped one; else what is wrong."""
    beside = tmp_path / "beside"
    beside.mkdir()
    for name in ("mine.yaml", "paper.yaml", "other.yml"):
        (beside / name).write_text("")
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "folder.yaml").mkdir()
    find = shipped.find
    assert find("search_spaces", "mine.yaml", beside) == beside / "mine.yaml"
    assert find("search_spaces", "other.yml", beside) == beside / "other.yml"
    (tmp_path / "mine.yaml").write_text("")
    assert str(find("search_spaces", "mine.yaml", beside)) == "mine.yaml"
    assert find("search_spaces", str(beside / "mine.yaml"), tmp_path) == beside / "mine.yaml"
    assert find("search_spaces", "paper", beside).name == "paper.yaml"
    known = ", ".join(shipped.names("search_spaces"))
    for name, said in (
        ("no.yaml", f"search space no.yaml does not exist; give a .yaml file or one of: {known}"),
        ("a/b", "search space a/b does not exist; give a .yaml file or one of: "),
        ("mine.txt", "search space mine.txt is not a .yaml file; give a .yaml file or one of: "),
        ("folder.yaml", "search space folder.yaml is a folder; give a .yaml file or one of: "),
        ("papr", "no search space 'papr'; did you mean 'paper'? known: "),
    ):
        with pytest.raises(ConfigError, match="^" + re.escape(said)):
            find("search_spaces", name)
    studies = ", ".join(shipped.names("studies"))
    network = "is a network, not a study; to search with it: dropopt run digits --model"
    images = "for your own images"
    for name, said in (
        ("digit", f"no study 'digit'; did you mean 'digits'? known: {studies} (or the path of a .py file)"),
        ("vgg", f"'vgg' {network} vgg, or dropopt run folder --data folder:PATH --model vgg {images}"),
        ("ResNet18", f"'ResNet18' {network} torchvision:resnet18, or dropopt run folder --data folder:PATH --model "
         f"torchvision:resnet18 {images}"),
        *[(name, f"no study {name!r}; known: {studies} (or the path of a .py file)") for name in NO_STUDIES],
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            find("studies", name)
        assert str(caught.value) == said
    monkeypatch.chdir(beside)
    (beside / "mine.py").touch()
    with pytest.raises(ConfigError, match=r"^no study 'mine' comes with dropopt; to run your script, give mine\.py$"):
        find("studies", "mine")
    assert find("portfolios", "small_images").parent.name == "portfolios"
    assert find("search_spaces", "paper").parent == find("portfolios", "small_images").parent.parent
    monkeypatch.setenv("HOME", str(beside))
    assert find("search_spaces", "~/paper.yaml") == beside / "paper.yaml"
    assert shipped.names("studies") == sorted({"digits", "folder", *shipped.names("studies")})


def test_a_script_defines_one_study(here, tmp_path):
    """It runs under another name than ``__main__``; the same study under two names is one."""
    path = tmp_path / "own.py"
    path.write_text("from dropopt.study import Study\na = b = Study(name='a' if __name__ != '__main__' else 'x')\n")
    study, found = load("own.py")
    assert (study.name, found) == ("a", path)
    path.write_text("from dropopt.study import Study\nc, d = Study(name='c'), Study(name='d')\n")
    message = rf"^{re.escape(str(path))} must define one Study \(study = Study\(...\)\), found 2$"
    with pytest.raises(ConfigError, match=message):
        load("own.py")


def test_a_script_that_fails(here, tmp_path, monkeypatch):
    """The path, the error and the line; modules beside it can be imported, after those that are installed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_it.py").write_text("NAME = 'a'\n")
    text = "import beside_it\nfrom dropopt.study import Study\ns = Study(name=beside_it.NAME)\n"
    (tmp_path / "own.py").write_text(text)
    assert load("own.py")[0].name == "a"
    assert sys.path[-1] == str(tmp_path)
    (tmp_path / "bad.py").write_text("\n1 / 0\n")
    with pytest.raises(ConfigError) as caught:
        load("bad.py")
    path = tmp_path / "bad.py"
    assert str(caught.value) == f"{path}: reading it failed: ZeroDivisionError: division by zero ({path}, line 2)"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("line", "told"),
    [("from .own import x", True), ("from pack.own import x", True), ("import no_such_package", False)],
)
def test_a_module_of_a_package_says_how_to_run_it(tmp_path, monkeypatch, line, told):
    """A script has no package, so its imports from the package fail; ``python -m`` runs it with its package."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    for folder in ("pack", "pack/inner"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "pack" / "inner" / "mine.py").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match="reading it failed") as caught:
        load(str(tmp_path / "pack" / "inner" / "mine.py"))
    assert str(caught.value).endswith(f"in {tmp_path}, type python -m pack.inner.mine") == told


def test_type_checkers_know_each_field_of_a_study():
    assert StudyFields.__annotations__.keys() == Study.model_fields.keys() | {"optimise"}


def test_what_is_optimised_is_a_setting_of_the_task():
    """It keeps the other settings, given in any form."""
    for task in ({"loss": "mse_loss"}, TaskConfig(loss="mse_loss")):
        for word, objective in (("loss", "loss"), ("accuracy", "metric")):
            assert Study(name="a", task=task, optimise=word).task == TaskConfig(loss="mse_loss", objective=objective)
    assert Study(name="a", optimise="accuracy").task == TaskConfig(objective="metric")
    with pytest.raises(ConfigError, match=r"^optimise must be one of loss, accuracy, got 'speed'$"):
        Study(name="a", optimise="speed")
    with pytest.raises(ConfigError, match=r"unknown setting 'optimize'; did you mean 'optimise'\?"):
        Study(name="a", optimize="accuracy")
    with pytest.raises(ConfigError, match=r"^study: task must be"):
        Study(name="a", task="mse", optimise="loss")


def test_the_shared_configuration(tmp_path):
    """Settings of the study and of the space; what both of them decide is refused."""
    space = Space.load("dropout")
    run = Study(name="a", train={"epochs": 7}, data={"subset": 50}).base(space)
    assert (run.train.epochs, run.data.subset) == (7, 50)
    one = space_of(tmp_path, "engine:\n  r0: {low: 0, high: 0.5}\n")
    assert Study(name="a", engine={"alpha": 0.5}).base(one).engine.alpha == 0.5
    everything = {"data": {"subset": 9}, "model": {"name": "vgg"}, "task": {"metric": "loss"}, "train": {"epochs": 7}}
    assert Study(name="a", **everything).base(one) == RunConfig.parse(everything)
    assert isinstance(run.engine, Baseline)
    baselines = space_of(tmp_path, "engine:\n  kind: dropout\n  p: {low: 0, high: 0.5}\n")
    assert Study(name="a", engine={"kind": "dropout", "sites": "norm"}).base(baselines).engine.sites == "norm"
    for engine, said in (
        ({"r0": 0.1}, r"^study 'a' sets engine.r0, which space '.*space.*' searches; remove one of the two$"),
        ({"kind": "dropout"}, r"^study 'a' sets the baseline engine.kind = 'dropout', but space '.*' searches the"),
    ):
        with pytest.raises(ConfigError, match=said):
            Study(name="a", engine=engine).base(one)


def test_settings_of_training_that_trials_do_not_take_are_named():
    """Those that the space searches, and the seed. A setting that no parameter replaces is used, and not named."""
    study = Study(name="a", train={"lr": 0.3, "seed": 7, "epochs": 4})
    own = "each trial has a training seed of its own, derived from that of the study (--seed)"
    seed = f"train.seed = 7 is not used: {own}"
    searched = study.load_space()
    assert study.unused(searched) == ["train.lr = 0.3 is not used: space compact searches it", seed]
    assert study.unused(replace(searched, parameters=())) == [seed]
    assert Study(name="a").unused(searched) == []


def test_objects_in_place_of_functions_are_named_in_a_few_words():
    """Arrays and networks are not printed."""
    with pytest.raises(ConfigError, match=r"^study: data must be a function that returns what is meant, .* got tuple$"):
        Study(name="a", data=(np.zeros((900, 3, 32, 32)), np.zeros(900)))
    said = r"^study: model must be a function or a class .*, got an object of class ReLU$"
    with pytest.raises(ConfigError, match=said):
        Study(name="a", model=nn.ReLU())


def network():
    """A function of the user."""


def test_functions_become_names():
    """A section, its name, and the functions of a task may be functions; a study is checked when it is made.

    Child processes import functions by name, so a lambda or a method is an error.
    """
    named = f"{__name__}:network"
    study = Study(name="a", model=network, data={"name": network, "subset": 9}, task={"loss": network})
    assert (study.model.name, study.data.name, study.data.subset, study.task.loss) == (named, named, 9, named)
    assert Study(name="a", model={"name": "vgg"}, data={"subset": 9}).model.name == "vgg"
    assert study.names == RunConfig(data=study.data, model=study.model, task=study.task).names
    assert named in study.names
    with pytest.raises(ConfigError, match=r"^study: n_trials must be an integer .*, got 'x'$"):
        Study(name="a", n_trials="x")
    for section, given in (
        ("data", {"data": lambda: 1}),
        ("data", {"data": object.__new__}),
        ("task.loss", {"task": {"loss": lambda a, b: a}}),
    ):
        with pytest.raises(ConfigError, match=f"^study: {section} must be a function or a class at the top level of a"):
            Study(name="a", **given)


def test_a_space_lies_beside_the_script(tmp_path):
    """A range that depends on the optimizer is that of the study's; it may be choices."""
    ranges = "{sgd: {choices: [0.1, 0.2]}, adamw: {low: 0.001, high: 0.01}}"
    (tmp_path / "by.yaml").write_text(f"train:\n  lr: {{by: {{optimizer: {ranges}}}}}\n")
    for optimizer, choices, low in (("sgd", (0.1, 0.2), 0.0), ("adamw", (), 0.001)):
        (lr,) = Study(name="a", space="by.yaml", train={"optimizer": optimizer}).load_space(tmp_path).parameters
        assert (lr.name, lr.choices, lr.low) == ("lr", choices, low)
