"""Networks are built again without the weights that they began with."""

import pytest

from dropopt.config import ModelConfig
from dropopt.training.networks.untrained import untrained


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_what_weights_change_is_kept(name):
    """torchvision's networks that rescale colours do so with weights; the options say it without them."""
    options = untrained(ModelConfig(name=f"torchvision:{name}", options={"weights": "DEFAULT"}))
    assert options == {"weights": None, "transform_input": True}
    assert untrained(ModelConfig(name=f"torchvision:{name}")) == {}
    assert untrained(ModelConfig(name="timm:resnet18", options={"pretrained": True})) == {"pretrained": False}
