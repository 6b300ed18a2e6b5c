"""Options of ``dropopt run`` that override a definition."""

import pytest

from dropopt.config import ConfigError, ModelConfig
from dropopt.study import Study
from dropopt.study.command.overrides import Overrides

STUDY = Study(name="a", model={"name": "vgg", "options": {"widths": [8]}}, train={"epochs": 5, "lr": 0.2}, n_trials=7)


def test_options_that_are_not_given_change_nothing():
    """Without options, the definition is the same."""
    assert Overrides().apply(STUDY).model_dump() == STUDY.model_dump()
    assert Overrides().command_line() == []


def test_options_change_fields_and_settings():
    """An option changes one field, or one setting of a section; the options of a network belong to it alone."""
    changed = Overrides(name="b", epochs=3, subset=100, seed=0, timeout=1.5).apply(STUDY)
    assert (changed.name, changed.seed, changed.timeout, changed.n_trials) == ("b", 0, 1.5, 7)
    assert (changed.train.epochs, changed.train.lr, changed.data.subset) == (3, 0.2, 100)
    assert changed.model == STUDY.model
    assert Overrides(model="small").apply(STUDY).model == ModelConfig(name="small")
    off = Overrides(anchors=False).apply(STUDY)
    assert (STUDY.anchors, off.anchors, Overrides(anchors=True).apply(off).anchors) == (True, False, True)


def test_overrides_are_checked():
    """A value that the definition does not allow is an error."""
    with pytest.raises(ConfigError, match="sampler must be one of auto, efficacy"):
        Overrides(sampler="tp").apply(STUDY)


def test_the_command_line_has_the_options_of_the_session():
    """Typed again, it resumes the study with the same settings; the number of trials is added by the summary."""
    overrides = Overrides(name="b", n_trials=9, sampler="tpe", space="paper", epochs=3)
    assert overrides.command_line() == ["--study-name", "b", "--space", "paper", "--epochs", "3", "--sampler", "tpe"]


def test_any_setting_can_be_set_and_is_repeated():
    """``--set`` comes after the other options, and the command to resume has it."""
    overrides = Overrides(batch_size=64, image_size=9, set=("train.momentum=0.5", "engine.block_size=5"), prior="b")
    changed = overrides.apply(STUDY)
    assert Overrides(set=("task.objective=metric",)).apply(STUDY).task.judged_by == "accuracy"
    assert (changed.train.batch_size, changed.train.momentum, changed.train.lr) == (64, 0.5, 0.2)
    assert (changed.data.image_size, dict(changed.engine)) == (9, {"block_size": 5})
    again = ["--image-size", "9", "--batch-size", "64", "--set", "train.momentum=0.5", "--set", "engine.block_size=5"]
    assert overrides.command_line() == again
    assert overrides.command_line(anew=True) == [*again, "--prior", "b"]


def test_a_setting_that_the_space_decides_is_refused():
    """It would have no effect, so the message names the space."""
    space = STUDY.load_space()
    Overrides(epochs=3, set=("train.momentum=0.5",)).check(space)
    with pytest.raises(ConfigError, match=r"train\.lr is searched by space 'compact', so it cannot be set"):
        Overrides(set=("train.lr=0.5",)).check(space)
