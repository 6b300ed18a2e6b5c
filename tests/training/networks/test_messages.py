"""Suggestions for the name of a network without its library."""

import pytest

from dropopt.config import ConfigError, ModelConfig
from dropopt.training.networks.build_model import build_model


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "did you mean torchvision:resnet18 or timm:resnet18?"),
        ("EfficientNet_B0", "did you mean torchvision:efficientnet_b0 or timm:efficientnet_b0?"),
        ("resnext50_32x4", "did you mean torchvision:resnext50_32x4d?"),
        ("convnextv2_atto", "did you mean timm:convnextv2_atto?"),
        ("smal", "did you mean 'small'?"),
        ("qqq", "is unknown; known: small, resnet9, vgg, torchvision:NAME"),
    ],
)
def test_a_library_is_suggested(name, said):
    """The exact name in torchvision and timm, else the closest name anywhere."""
    with pytest.raises(ConfigError, match="is unknown") as caught:
        build_model(ModelConfig(name=name), channels=1, classes=2, image_size=8, seed=0)
    assert said in str(caught.value)
