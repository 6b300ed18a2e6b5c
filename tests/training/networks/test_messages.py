"""Suggestions for the name of a network without its library."""

import pytest

from dropopt.config import ConfigError, ModelConfig
from dropopt.known import DATA, NETWORKS, library_networks
from dropopt.training.data.load_data import NAMES
from dropopt.training.networks.build_model import REFERENCE, build_model


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "did you mean torchvision:resnet18 or timm:resnet18?"),
        ("EfficientNet_B0", "did you mean torchvision:efficientnet_b0 or timm:efficientnet_b0?"),
        ("resnext50_32x4", "did you mean torchvision:resnext50_32x4d?"),
        ("convnextv2_atto", "did you mean timm:convnextv2_atto?"),
        ("qqq", "is unknown; known: small, resnet9, vgg, torchvision:NAME"),
    ],
)
def test_a_library_is_suggested(name, said):
    """The exact name in torchvision and timm, else the closest name anywhere."""
    with pytest.raises(ConfigError, match="is unknown") as caught:
        build_model(ModelConfig(name=name), channels=1, classes=2, image_size=8, seed=0)
    assert said in str(caught.value)


def test_the_known_names_are_those_of_the_readers_and_libraries():
    """They are written or read without importing what takes long to import."""
    import timm
    from torchvision import models

    assert NAMES == DATA
    assert tuple(REFERENCE) == NETWORKS
    assert library_networks("torchvision") == {*models.list_models(module=models)}
    assert library_networks("timm") == {*timm.list_models()}
    assert library_networks("no_such_library") == frozenset()
