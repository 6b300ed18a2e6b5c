"""Settings validate themselves, and errors say what is allowed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dropopt.config import METHODS, Baseline, ConfigError, EngineConfig, RunConfig, TrainConfig


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (EngineConfig, {"r0": 1.3}, "r0 must be in [0, 1], got 1.3"),
        (EngineConfig, {"r0": float("nan")}, "r0 must be in [0, 1], got nan"),
        (EngineConfig, {"alpha": -1.5}, "alpha must be in [-1, 1], got -1.5"),
        (EngineConfig, {"delta": 0}, "delta must be a number > 0, got 0"),
        (EngineConfig, {"duration_phi": "x"}, "duration_phi must be a finite number, got 'x'"),
        (EngineConfig, {"block_size": 0}, "block_size must be an integer >= 1, got 0"),
        (
            EngineConfig,
            {"pattern": "blocks"},
            "pattern must be one of element, channel, structured, spatial, own, got 'blocks'",
        ),
        (EngineConfig, {"update_every": 0}, "update_every must be epoch or an integer >= 1, got 0"),
        (EngineConfig, {"w_pfid": 1.5}, "w_pfid must be in [0, 1] or 3 of them, each in [0, 1], got 1.5"),
        (TrainConfig, {"lr": -1}, "lr must be a number > 0, got -1"),
        (RunConfig, {"train": {"lr": 0}}, "train.lr must be a number > 0, got 0"),
        (RunConfig, {"data": "digits"}, "data must be a mapping of settings, such as {'name': 'digits'}, got 'digits'"),
        (RunConfig, {"train": "sgd"}, "train must be a mapping of settings, got 'sgd'"),
        (RunConfig, {"engine": {"r0": 2}}, "r0 must be in [0, 1], got 2"),
        (RunConfig, {"engine": {"kind": "dropout", "p": 1}}, "p must be in [0, 1), got 1"),
        (Baseline, {"kind": "dropblock", "block_size": 4}, "block_size must be odd for dropblock, got 4"),
        (Baseline, {"kind": "dropout", "library": "timm"}, "library: timm is for dropblock, got dropout"),
        (
            RunConfig,
            {"data": {"name": "folder:caf\udce9"}},
            r"data: folder:caf\udce9 is not UTF-8; rename it, or give a link to it, made with: ln -s PATH NAME",
        ),
    ],
)
def test_an_error_says_what_is_allowed(model, values, message):
    """One line names the setting, its legal values and what was given."""
    with pytest.raises(ConfigError) as caught:
        model.parse(values)
    assert str(caught.value) == message


def test_an_error_suggests_the_nearest_name():
    """An unknown key is an error that suggests a known one."""
    with pytest.raises(ConfigError, match=r"unknown setting 'train\.epochz'; did you mean 'epochs'\? known: epochs, "):
        RunConfig.parse({"train": {"epochz": 3}})


def test_settings_are_frozen():
    """A configuration cannot change while a study runs."""
    with pytest.raises(ValidationError, match="frozen"):
        EngineConfig().r0 = 0.1  # type: ignore[misc]


def test_a_blend_needs_a_member():
    """Eq. (15) divides by the sum of the weights, which must be positive in every stage."""
    nothing = {f"w_{method}": 0.0 for method in METHODS}
    with pytest.raises(ConfigError, match=r"at least one of w_adaptive, .* must be above 0"):
        EngineConfig.parse(nothing)
    with pytest.raises(ConfigError, match="must be above 0"):
        EngineConfig.parse(nothing | {"w_pfid": [1.0, 1.0, 0.0]})


def test_weights_may_differ_by_stage():
    """A weight is one number or (early, middle, late)."""
    config = EngineConfig(w_adaptive=(1.0, 0.5, 0.0), w_structured=0.2, w_contextual=0, w_pfid=0)
    assert config.weights(0) == (1.0, 0.2, 0, 0, 0)
    assert config.weights(2) == (0.0, 0.2, 0, 0, 0)


def test_the_key_kind_makes_a_baseline():
    """A mapping with the key `kind` is a baseline; any other is the engine."""
    assert RunConfig.parse({"engine": {"kind": "none"}}).engine == Baseline(kind="none")
    assert RunConfig.parse({"engine": {"r0": 0.5}}).engine == EngineConfig(r0=0.5)
