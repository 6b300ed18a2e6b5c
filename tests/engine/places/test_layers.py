"""What kind of layer a module is, which of its output's dimensions holds the features, and which dropout it has."""

import pytest
import timm
import torch
from networks import Network
from probe_models import Tokens
from residual_net import EXAMPLE, Net
from torch import nn

from dropopt.engine.places.find import survey
from dropopt.engine.places.layers import (
    feature_axis,
    feature_count,
    holds_weights,
    is_convolution,
    is_norm,
    is_weighted,
)


class NormAlone(nn.Module):
    """A normalisation by its name."""

    weight = None


class NormAndMore(nn.Sequential):
    """A container that is called after the normalisation in it."""


KINDS = {
    nn.Conv1d(3, 4, 1): ("weighted convolution", 1, 4),
    nn.Conv3d(3, 4, 1): ("weighted convolution", 1, 4),
    nn.ConvTranspose2d(3, 4, 1): ("weighted convolution", 1, 4),
    nn.Linear(3, 4): ("weighted", -1, 4),
    nn.BatchNorm2d(4): ("norm", 1, 4),
    nn.BatchNorm2d(4, affine=False): ("norm", 1, None),
    nn.InstanceNorm2d(4): ("norm", 1, None),
    nn.InstanceNorm1d(4, affine=True): ("norm", 1, 4),
    nn.GroupNorm(2, 4): ("norm", 1, 4),
    nn.LayerNorm(4): ("norm", -1, 4),
    nn.RMSNorm(4): ("norm", -1, 4),
    nn.LayerNorm((4, 6, 6)): ("norm", None, None),
    nn.RMSNorm((4, 6)): ("norm", None, None),
    timm.layers.LayerNorm2d(4): ("norm", 1, 4),
    timm.layers.RmsNorm2d(4): ("norm", 1, 4),
    timm.layers.BatchNormAct2d(4): ("norm", 1, 4),
    NormAlone(): ("norm", None, None),
    NormAndMore(nn.ReLU()): ("", None, None),
    nn.PReLU(4): ("", None, None),
    nn.Sequential(nn.ReLU(), nn.Linear(3, 4)): ("holder", None, None),
}


@pytest.mark.parametrize("module", KINDS, ids=lambda module: type(module).__name__)
def test_kinds_of_layers(module):
    """Weighted layers, normalisations and containers, with the dimension and the number of their features."""
    kind, axis, count = KINDS[module]
    tests = {"weighted": is_weighted, "convolution": is_convolution, "norm": is_norm, "holder": holds_weights}
    assert " ".join(name for name, test in tests.items() if test(module)) == kind
    assert (feature_axis(module), feature_count(module)) == (axis, count)


#: An activation of tokens, beside a convolution that reads the same input and runs before.
ASIDE = Network(
    lambda self, x: self.conv(x) + self.mix(self.act(x)), conv=nn.Conv1d(6, 6, 1), act=nn.ReLU(), mix=nn.Linear(6, 6)
)


def residual(layer, norm):
    return Network(lambda self, x: x + self.layer(self.norm(x)), layer=layer, norm=norm)


AXES = [  # the module is "0" or "1" of a sequence that ends with a linear layer; sizes of the input; axis; depth
    ([nn.ReLU(), nn.Linear(6, 6)], "0", (6, 6), -1, 1 / 2),  # sizes are equal: the next layer decides
    ([nn.ReLU(), nn.Conv1d(6, 6, 1)], "0", (6, 6), 1, 1 / 2),
    ([ASIDE], "0.act", (6, 6), -1, 1 / 3),
    ([nn.Conv1d(6, 6, 1), nn.ReLU()], "1", (6, 6), 1, 1 / 2),  # or the layer before
    ([nn.Linear(6, 6), nn.ReLU()], "1", (6, 6), -1, 1 / 2),
    ([nn.Conv1d(3, 6, 4), nn.ReLU(), nn.Linear(5, 5)], "1", (3, 8), 1, 1 / 3),  # which comes before the next layer
    ([nn.Conv2d(3, 6, 1), nn.ReLU()], "1", (3, 6, 6), 1, 1 / 2),
    ([nn.Linear(3, 6), nn.ReLU()], "1", (6, 5, 3), 1, 1 / 2),  # maps of equal sizes
    ([nn.Linear(3, 6), nn.ReLU()], "1", (5, 4, 3), -1, 1 / 2),  # the number of features decides
    ([nn.Conv1d(3, 6, 1), nn.ReLU()], "1", (3, 5), 1, 1 / 2),
    ([nn.Conv2d(3, 6, 1), nn.PixelUnshuffle(2)], "1", (3, 8, 4), 1, 1 / 2),  # no size is that of a layer
    ([nn.Conv2d(3, 6, 1), nn.Flatten(1, 2)], "1", (3, 4, 5), -1, 1 / 2),
    ([nn.ReLU(), nn.Conv2d(3, 6, 1)], "0", (3, 8, 4), 1, 1 / 2),  # no layer before
    ([nn.ReLU(), nn.Conv1d(5, 6, 1)], "0", (5, 7), -1, 1 / 2),
    ([nn.Linear(5, 6), nn.ReLU()], "1", (5,), 1, 1 / 2),
    ([residual(nn.Linear(6, 6), nn.LayerNorm(6))], "0", (6, 6), -1, 1 / 2),  # a block: the layers in it
    ([residual(nn.Linear(6, 6), nn.LayerNorm(6)), nn.LayerNorm(6)], "0", (6, 5, 6), -1, 1 / 2),
    ([residual(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6))], "0", (6, 6), 1, 1 / 2),
]


@pytest.mark.parametrize("number", range(len(AXES)))
def test_the_feature_dimension_of_any_module(number):
    """By the kind of the layer that reads the output, or by the layer before and its number of features."""
    layers, name, sizes, axis, depth = AXES[number]
    x = torch.randn(2, *sizes)
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
    output = []
    model(x)
    model.get_submodule(name).register_forward_hook(lambda module, args, y: output.append(y))
    (place,) = survey(model, name, x).places
    assert (place.axis, place.features, place.ndim) == (axis, output[0].shape[axis], output[0].ndim)
    assert place.shape == tuple(output[0].shape[1:])
    assert place.depth == depth


def test_the_example_follows_the_model_to_its_device():
    """Also a model without memory for its weights has places."""
    names = [place.name for place in survey(Net(), "norm", EXAMPLE).places]
    assert [place.name for place in survey(Net().to("meta"), "norm", EXAMPLE).places] == names
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    assert [place.name for place in survey(Tokens().to("meta"), "auto", tokens).places] == ["norm", "mix"]


class OddDropout(nn.Identity):
    """Dropout whose attribute p is no number."""

    p = "auto"


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (nn.Dropout(0.25), "Dropout '1' (p = 0.25)"),
        (nn.FeatureAlphaDropout(1), "FeatureAlphaDropout '1' (p = 1)"),
        (timm.layers.DropPath(0.1), "DropPath '1' (p = 0.1)"),
        (timm.layers.DropBlock2d(0.2), "DropBlock2d '1' (p = 0.2)"),
        (nn.Sequential(nn.ReLU(), nn.Dropout2d(0.5)), "Dropout2d '1.1' (p = 0.5)"),
        (nn.Dropout(0.0), ""),
        (timm.layers.DropPath(0.0), ""),
        (OddDropout(), ""),
        (nn.PReLU(), ""),
    ],
)
def test_dropout_of_the_network_is_known_by_its_class(layer, shown):
    """Layers of torch and timm whose probability is not 0, also behind an activation; not those further on."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 5, 3), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(5)
    )
    assert ", ".join(map(str, survey(model, "0", EXAMPLE)[1])) == shown
    inside = survey(nn.Sequential(model[:2], *model[2:]), "0", EXAMPLE)[1]  # in the place itself
    assert ", ".join(map(str, inside)) == shown.replace("'1", "'0.1")
