"""Settings by name from the command line."""

import pytest

from dropopt.config import Baseline, ConfigError, RunConfig
from dropopt.study.define.settings import Setting, changed, changed_run


def test_a_value_is_read_as_in_a_file():
    """Numbers, lists, text, null, and one option of the network."""
    texts = ["train.lr=1e-3", "train.augment=[flip]", "data.subset=", "model.options.head=7", "engine.kind=dropout"]
    run = changed_run(RunConfig.parse({"data": {"subset": 9}, "engine": {"r0": 0.1}}), map(Setting.read, texts))
    assert (run.train.lr, run.train.augment, run.data.subset, run.model.options) == (1e-3, ("flip",), None, {"head": 7})
    assert run.engine == Baseline(kind="dropout"), "another kind of engine begins with its defaults"
    assert changed_run(run, [Setting.read("model.name=vgg")]).model.options == {}, "options belong to their network"
    assert changed_run(run, [Setting.read("model.name=small")]).model.options == {"head": 7}


def test_without_settings_nothing_changes():
    """The very run is returned."""
    run = RunConfig.parse({"train": {"lr": 0.5}})
    assert changed_run(run, iter(())) is run


def test_what_resets_the_others_comes_first():
    """The order on the command line does not matter."""
    given = {"model": {"name": "small", "options": {"a": 1}}, "engine": {"r0": 0.5}}
    for texts in (["model.options.head=7", "model.name=vgg"], ["engine.p=0.5", "engine.kind=dropout"]):
        settings = [Setting.read(text) for text in texts]
        values = changed(given, settings)
        assert values == changed(given, settings[::-1])
    assert values["engine"] == {"kind": "dropout", "p": 0.5}
    assert changed({}, [Setting("train", "lr", 0.5)]) == {"train": {"lr": 0.5}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lr", "expected section.name=value, such as --set train.weight_decay=1e-3"),
        ("lr=3", "expected section.name=value"),
        ("trian.lr=3", "unknown section 'trian'; did you mean 'train'?"),
        ("train.epocs=3", "unknown setting 'epocs' of train; did you mean 'epochs'?"),
        ("train.lr.x=3", "unknown setting 'lr.x' of train; did you mean 'lr'?"),
        ("train.augment=[flip", "--set train.augment:1: not valid here"),
        ("train.lr=-1", "train.lr must be a number > 0, got -1"),
        ("engine.pattern=chanel", "pattern must be one of element, channel"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line(text, said):
    """The message says what was given and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        changed_run(RunConfig(), [Setting.read(text)])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
