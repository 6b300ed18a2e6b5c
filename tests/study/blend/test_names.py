"""The names of a blend: declared, searched by a space, or suggested by trials."""

import pytest

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend.names import BLEND, NoBlendError, blend_names, searched_blend, suggested_blend

STAGED = tuple(tuple(f"w_{method}_{stage}" for method in METHODS) for stage in STAGES)


def test_stages_are_appended_to_names():
    """Names with suffixes and names for each stage give the same blend."""
    assert blend_names(BLEND, STAGES) == blend_names(STAGED) == STAGED
    assert blend_names(["a", "b"]) == (("a", "b"),)
    assert blend_names(["a", "b"], ["x", "y"]) == (("a_x", "b_x"), ("a_y", "b_y"))


def test_a_space_keeps_its_order():
    """The blend of a space has the order of the space, and other parameters are ignored."""
    assert searched_blend(["r0", "w_pfid", "lr", "w_adaptive"]) == (("w_pfid", "w_adaptive"),)
    assert searched_blend(name for stage in STAGED for name in reversed(stage))[1] == STAGED[1][::-1]


@pytest.mark.parametrize(
    "names",
    [[], ["w_pfid"], ["w_pfid", "w_adaptive", "w_spatial_late"], ["w_pfid_early", "w_adaptive_early", "w_pfid_late"]],
)
def test_a_space_without_a_blend(names):
    """A blend has two or more weights, all by stage or none, and the same number in each stage."""
    assert searched_blend(names) == ()


def test_trials_have_a_canonical_order():
    """The blend of trials has the order of METHODS; weights for all of training and known names come first."""
    assert suggested_blend(["w_pfid", "lr", "w_adaptive"]) == (("w_adaptive", "w_pfid"),)
    assert suggested_blend(name for stage in STAGED for name in reversed(stage)) == STAGED
    assert suggested_blend([*BLEND, *STAGED[0]]) == (BLEND,)
    two = [name for stage in STAGED for name in stage[:2]]
    assert suggested_blend([BLEND[0], *two]) == tuple(stage[:2] for stage in STAGED), "one shared weight"
    assert suggested_blend([BLEND[1], "w_zz"]) == ((BLEND[1], "w_zz"),)
    assert suggested_blend(["w_b", "w_a", "x"]) == (("w_a", "w_b"),)
    assert suggested_blend(["w_a", "w_spatial", "w_pfid"]) == (("w_pfid", "w_spatial"),)


@pytest.mark.parametrize("names", [[], ["lr"], ["w_pfid", "lr"], list(STAGED[0])])
def test_trials_without_a_blend(names):
    """Fewer than two weights, or weights of some stages only, are not a blend."""
    with pytest.raises(NoBlendError) as missing:
        suggested_blend(names)
    assert str(missing.value) == "no blend in this study: its trials suggest fewer than two of the weights w_*"


@pytest.mark.parametrize("wrong", [["a"], ["a", "a"], [["a", "b"], ["c"]], [["a", "b"], ["b", "c"]], []])
def test_names_that_are_no_blend(wrong):
    with pytest.raises(ConfigError) as error:
        blend_names(wrong)
    assert str(error.value) == (
        f"blend must be two or more different names, the same number in each stage, got {wrong!r}"
    )
