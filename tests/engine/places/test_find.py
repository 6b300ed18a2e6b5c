"""Selectors choose places; modules that cannot be places are refused."""

import re

import pytest
import timm
import torch
import torchvision
from adapted import Adapted
from networks import Network
from residual_net import EXAMPLE, Added, Net, assert_same, snapshot
from torch import nn

from dropopt.config import ConfigError
from dropopt.engine.places.find import KINDS, named_places, survey

AVAILABLE = "allowed: auto, conv (3), norm (3), linear (1), block (2), last:k, a pattern on module names such as 'h*'"


def plain(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


def names(model, sites, example=EXAMPLE):
    return [place.name for place in survey(model, sites, example).places]


# -- selectors


def test_named_places_are_those_that_the_selectors_choose():
    """One entry for each named selector, empty where the network has none; the model is left as it was."""
    model = Net()
    before = snapshot(model)
    found = named_places(model, EXAMPLE)
    assert tuple(found) == KINDS
    assert found == {kind: names(model, kind) for kind in KINDS}
    assert_same(before, snapshot(model))
    assert named_places(plain(nn.Conv2d(3, 4, 3), nn.ReLU()), EXAMPLE)["block"] == []


def test_selectors_choose_what_their_names_say():
    """conv, norm, linear and block pick those layers, in order of execution, without the output layer."""
    blocks = ["blocks.0", "blocks.1"]
    assert names(Net(), "conv") == ["stem", "blocks.0.conv", "blocks.1.conv"]
    assert names(Net(), "norm") == ["stem_norm", "blocks.0.norm", "blocks.1.norm"]
    assert names(Net(), "linear") == ["hidden"]
    assert names(Net(), "block") == blocks
    assert names(Net(), "auto") == blocks
    assert names(Net(), "last:1") == ["blocks.1"]
    assert names(Net(), "last:9") == blocks
    assert names(Net(), "blocks.?.norm") == ["blocks.0.norm", "blocks.1.norm"]
    assert names(Net(), ("linear", "stem*", "stem")) == ["stem", "stem_norm", "hidden"]
    assert names(Net(), lambda name, module: isinstance(module, nn.ReLU) and name == "act") == ["act"]


def test_a_name_with_brackets_selects_its_module():
    """In a pattern, brackets hold alternatives; the whole name, as the summary prints it, is that of one module."""
    parts = nn.ModuleDict({"conv[1]": nn.Conv2d(3, 4, 3), "conv1": nn.Conv2d(4, 4, 3), "flat": nn.Flatten()})

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = parts
            self.head = nn.LazyLinear(2)

        def forward(self, x):
            for part in self.parts.values():
                x = part(x)
            return self.head(x)

    assert names(Listed(), "parts.conv[1]") == ["parts.conv[1]", "parts.conv1"]  # the name, and the pattern
    assert names(Listed(), "parts.conv[[]*") == ["parts.conv[1]"]


def test_auto_falls_back_from_blocks_to_norms_to_convolutions():
    """Without residual blocks auto takes norms and hidden linear layers that no norm follows; without norms, convs."""
    conv, linear = nn.Conv2d(3, 4, 3), nn.LazyLinear(6)
    assert names(plain(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), linear), "auto") == ["1", "4"]
    normed = plain(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(6), nn.LayerNorm(6))
    assert names(normed, "auto") == ["3"]
    assert names(plain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), "auto") == ["0", "2"]


class Normalize(Network):
    """A norm by its name."""


@pytest.mark.parametrize(
    "first", [Normalize(lambda self, x: x - 0.5), nn.BatchNorm2d(3), nn.InstanceNorm2d(3, affine=True)]
)
def test_norms_of_the_inputs_are_places_only_where_they_are_named(first):
    """Kinds are of hidden layers: dropout of a whole colour was not asked for."""
    model = plain(first, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
    for sites in ("auto", "norm"):
        assert names(model, sites) == ["2", "5"]
    assert names(model, "0") == ["0"]


def test_norms_after_features_that_no_layer_made_are_places():
    """Embeddings, bilinear layers and functions of the user's own make features as layers do."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.repeat(1, 2, 1, 1)

        @staticmethod
        def backward(ctx, gradient):
            return gradient[:, :3] + gradient[:, 3:]

    def own(self, x):
        tokens = self.tokens(self.table((x[:, 0, 0] > 0).long())).mean((1, 2)).view(-1, 1, 1, 1)
        return self.head(self.norm(Doubled.apply(x)) + tokens).mean((2, 3))

    def pairs(self, x):
        colours = x.mean((2, 3))
        return self.head(self.norm(self.pairs(colours, colours)))

    def queries(self, x):  # a parameter is no input
        maps = self.stem(x).flatten(2)
        return self.head((self.norm(self.queries) @ maps).softmax(2) @ maps.mT).mean(1)

    tokens = {"tokens": nn.LayerNorm(5), "table": nn.Embedding(2, 5)}
    model = Network(own, norm=nn.BatchNorm2d(6), **tokens, head=nn.Conv2d(6, 4, 3))
    assert names(model, "norm") == ["tokens", "norm"]
    model = Network(pairs, pairs=nn.Bilinear(3, 3, 5), norm=nn.LayerNorm(5), head=nn.Linear(5, 2))
    assert names(model, "norm") == ["norm"]
    learned = {"queries": nn.Parameter(torch.randn(5, 4)), "norm": nn.LayerNorm(4)}
    model = Network(queries, stem=nn.Conv2d(3, 4, 3), **learned, head=nn.Linear(4, 2))
    assert names(model, "norm") == ["norm"]


def test_a_convolution_with_norm_in_its_name_is_a_convolution():
    """One that normalises its weights, say. Its features are dropped once, after the norm that follows it."""

    class NormedConv2d(nn.Conv2d):
        pass

    model = plain(NormedConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert names(model, "auto") == names(model, "norm") == ["1"]
    assert names(model, "conv") == ["0"]


def test_an_adapted_layer_is_one_layer():
    """A low-rank update leaves the places of a network as they are: its sum is no block, its parts are no layers."""
    for model in (Net(), plain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()))):
        before = named_places(model, EXAMPLE)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, Adapted(layer))
        assert named_places(model, EXAMPLE) == before
        for place in survey(model, "conv", EXAMPLE).places:
            assert place.weighted == (model.get_submodule(place.name),)


def test_a_siamese_network_is_told_to_attach_to_its_encoder():
    """Everything runs twice in it. The error names the part that does, and that part alone has places."""
    encoder = plain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model = Network(lambda self, *images: tuple(map(self.encoder, images)), encoder=encoder)
    end = "attach to model.encoder alone, or give each use a module of its own"
    for sites, start in (
        ("auto", "sites 'auto' matches no module; .* Module 'encoder' runs 2 times"),
        ("norm", r"module 'encoder\.1' runs 2 times"),
    ):
        with pytest.raises(ConfigError, match=f"^{start}") as caught:
            survey(model, sites, (EXAMPLE, EXAMPLE))
        assert str(caught.value).endswith(end)
    assert names(model.encoder, "auto") == ["1"]


def test_a_recurrent_cell_of_one_layer_is_left_to_auto():
    """An engine of its own could not drop anything in it."""
    cell = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())
    model = plain(nn.Conv2d(3, 4, 3), cell, cell)
    message = r"^module '1\.0' runs 2 times .*; choose sites='auto', which leaves it"
    for sites in ("conv", "1.0"):
        with pytest.raises(ConfigError, match=message):
            survey(model, sites, EXAMPLE)
    assert names(model, "auto") == ["0"]


def of_waves(*layers):
    """A convolution of complex numbers, and others of their absolute values if there are some."""
    parts = {"waves": nn.Conv2d(3, 6, 3, dtype=torch.complex64), "layers": nn.Sequential(*layers)}
    return Network(
        lambda self, x: self.head(self.layers(self.waves(x).abs()).mean((2, 3))), **parts, head=nn.Linear(6, 2)
    )


def test_complex_numbers_are_no_places():
    """Selectors of a kind leave them out where there are others; a layer that is named is refused at once."""
    waves = torch.zeros(2, 3, 8, 8, dtype=torch.complex64)
    mixed, message = of_waves(nn.Conv2d(6, 6, 3)), "returns complex numbers, which have no dropout in PyTorch either"
    assert [names(mixed, sites, waves) for sites in ("auto", "conv")] == [["layers.0"]] * 2
    for model, sites in ((mixed, "waves"), (of_waves(), "conv")):
        with pytest.raises(ConfigError, match=f"^module 'waves' {message}: choose other sites$"):
            survey(model, sites, waves)
    with pytest.raises(ConfigError, match=r"conv \(0\).*\. Modules that return complex numbers have no dropout$"):
        survey(of_waves(), "auto", waves)


def test_auto_leaves_out_modules_that_run_twice():
    """They cannot be sites, and nobody asked for them."""
    shared = nn.BatchNorm2d(3)
    assert names(plain(nn.Conv2d(3, 3, 1), shared, shared, nn.BatchNorm2d(3)), "auto") == ["3"]


def test_places_know_their_features_depth_and_weights():
    """Depth is the fraction of weighted layers that have run; a norm has the features of the convolution before it."""
    model = Net()
    places = {place.name: place for place in survey(model, ("norm", "block", "linear"), EXAMPLE).places}
    assert [place.depth for place in places.values()] == [0.2, 0.4, 0.4, 0.6, 0.6, 0.8]
    assert places["stem_norm"].weighted == (model.stem, model.stem_norm)
    assert places["hidden"].weighted == (model.hidden,)
    assert places["blocks.0"].weighted == ()
    assert [(p.axis, p.features, p.ndim) for p in places.values()] == [(1, 6, 4)] * 5 + [(-1, 10, 2)]


class Moving(nn.LayerNorm):
    """Normalises 6 features, and changes the order of dimensions before and after that."""

    def __init__(self, before, after):
        super().__init__(6)
        self.before, self.after = before, after

    def forward(self, x):
        """Maps or tokens."""
        return self.after(super().forward(self.before(x)))


LAST = Moving(lambda x: x.movedim(1, -1), lambda x: x.movedim(-1, 1).contiguous())


@pytest.mark.parametrize(
    ("layer", "norm", "shape", "axis"),
    [
        # Over whole maps or positions.
        (nn.Conv2d(3, 6, 1), nn.LayerNorm((6, 5, 4)), (2, 3, 5, 4), 1),
        (nn.Conv2d(3, 6, 1), nn.LayerNorm((5, 4)), (2, 3, 5, 4), 1),
        (nn.Conv1d(3, 6, 1), nn.LayerNorm((6, 5)), (2, 3, 5), 1),
        (nn.Linear(3, 6), nn.LayerNorm((5, 6)), (2, 5, 3), -1),
        # Over the features of maps, which may have as many columns as features.
        *((nn.Conv2d(1, 6, 1), LAST, (2, 1, side, side), 1) for side in (4, 6, 8)),
        (nn.Conv2d(3, 6, 3), timm.layers.LayerNorm2d(6), (2, 3, 8, 8), 1),
        (nn.Conv2d(3, 6, 3), timm.layers.LayerNormAct2d(6), (2, 3, 8, 8), 1),
        (nn.Conv2d(3, 6, 3), torchvision.models.convnext.LayerNorm2d(6), (2, 3, 8, 8), 1),
        # Of as many tokens as features.
        (nn.Linear(3, 6), nn.LayerNorm(6), (2, 6, 6, 3), -1),
        (nn.Linear(3, 6), nn.RMSNorm(6), (2, 6, 3), -1),
        (nn.Linear(3, 6), Moving(lambda x: x.mT, lambda x: x.mT), (2, 6, 3), 1),
        (nn.Linear(3, 6), Moving(lambda x: x.permute(0, -1, 1), lambda x: x.permute(0, -1, 1)), (2, 6, 3), 1),
        (
            nn.Linear(3, 6),
            Moving(lambda x: x.movedim(1, -1), lambda x: x.transpose(0, 2).transpose(0, 1).transpose(0, -1)),
            (2, 6, 3),
            1,
        ),
        # Moved, but not the features.
        (
            nn.Linear(3, 6),
            Moving(lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1).double().float()),
            (2, 6, 3),
            -1,
        ),
        (nn.Linear(3, 6), Moving(lambda x: x, lambda x: x.mT.clone().mT), (2, 6, 3), -1),
    ],
)
def test_a_norm_has_its_features_where_its_layer_has_them_or_it_moves_them(layer, norm, shape, axis):
    """The last dimension holds the features only if a norm that moves none of them normalises these alone."""
    (place,) = survey(plain(layer, norm), "norm", torch.zeros(shape)).places
    assert (place.axis, place.features) == (axis, 6)


@pytest.mark.parametrize("sites", ["auto", "block"])
def test_all_blocks_of_a_chain_that_adds_in_place_are_found(sites):
    """Blocks are found once each, also inside a stage that returns the output of its last block."""
    model = plain(nn.Conv2d(3, 6, 1), Added(), Added(), nn.Sequential(Added(), Added()))
    assert names(model, sites) == ["1", "2", "3.0", "3.1"]


# -- nested places


def stages(width=4):
    """Two stages of convolution, norm, activation and pooling, with an identity, and a head."""
    stage = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)]
    plain_stage = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(), nn.MaxPool2d(2)]
    return nn.Sequential(
        nn.Sequential(nn.Sequential(*stage), nn.Sequential(*plain_stage)), nn.Flatten(), nn.Linear(4 * width, 3)
    )


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("0*", ["0"]),  # the outermost
        ("0.*", ["0.0", "0.1"]),
        ("0.?.*", ["0.0.1", "0.1.0"]),  # one of each chain: the norm, or else the first
        ("0.0.[01]", ["0.0.1"]),
        ("0.0.[234]", ["0.0.2"]),
        (("0.0.0", "0.0.1"), ["0.0.0", "0.0.1"]),  # named one by one
        (("0.*", "0.?.1"), ["0.0.1", "0.0", "0.1.1", "0.1"]),
        (("0", "0.*"), ["0.0", "0"]),  # 0.1 returns the output of 0
        (lambda name, module: name.startswith("0."), ["0.0", "0.1"]),
        (lambda name, module: isinstance(module, nn.Conv2d | nn.BatchNorm2d), ["0.0.0", "0.0.1", "0.1.0"]),
    ],
)
def test_features_are_dropped_once(sites, expected):
    """A pattern that matches nested modules, or modules in a chain, drops their features only once."""
    assert names(stages(), sites) == expected


@pytest.mark.parametrize("make", [torchvision.models.get_model, timm.create_model])
def test_a_pattern_on_a_stage_selects_its_blocks(make):
    """``layer4.*`` is one place per block in both libraries, so that one rate decides about each feature."""
    assert names(make("resnet18"), "layer4.*", torch.randn(2, 3, 32, 32)) == ["layer4.0", "layer4.1"]


# -- refusals


def without_features(output):
    part = Network(lambda self, x: output(self.conv(x)), conv=nn.Conv2d(3, 4, 3))
    return Network(lambda self, x: self.head(self.part(x)[0].reshape(-1, 1)), part=part, head=nn.Linear(1, 3))


@pytest.mark.parametrize(
    ("model", "sites", "message"),
    [
        (Net(), "layer*", f"sites 'layer*' matches no module; {AVAILABLE}"),
        (Net(), ("conv", "layer*"), f"sites 'layer*' matches no module; {AVAILABLE}"),
        (Net(), "last:0", "sites 'last:0': last:k takes a whole number k >= 1, such as last:2"),
        (Net(), "last:two", "sites 'last:two': last:k takes a whole number k >= 1, such as last:2"),
        (Net(), {"norm"}, "sites must be text, a tuple of texts or a function, got set"),
        (Net(), [], f"sites is empty and matches no module; {AVAILABLE}"),
        (Net(), "head", "module 'head' gives the network's output: dropout there would drop classes"),
        (Net(), "unused", "module 'unused' did not run in the forward pass: it cannot be a site"),
        (
            Net(),
            "blocks.0.relu",
            "module 'blocks.0.relu' runs 2 times in one forward pass: one mask cannot serve it; "
            "choose other sites (such as 'norm' or 'conv'), or give each use a module of its own",
        ),
        (without_features(lambda y: (y, y)), "part", "module 'part' returns tuple: no feature dimension to drop"),
        (
            without_features(lambda y: y.mean((1, 2, 3))),
            "part",
            "module 'part' returns (2,): no feature dimension to drop",
        ),
        (nn.Flatten(), "auto", "model Flatten runs no convolution or linear layer to put dropout after"),
    ],
)
def test_what_cannot_be_a_site_is_refused_by_name(model, sites, message):
    """One line names the module or the selector and says what is allowed; the model is left as it was."""
    before = snapshot(model)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        survey(model, sites, EXAMPLE)
    assert_same(before, snapshot(model))


def test_a_part_that_is_all_output_is_refused_with_what_to_do():
    """As the small encoder of a metric learner, whose classifier is another module."""
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    message = r"Nothing is dropped in the output, which module '0' gives: attach to the whole network if this is a part"
    with pytest.raises(ConfigError, match=message):
        survey(encoder, "auto", EXAMPLE)
    assert names(nn.Sequential(encoder, nn.Linear(8, 4)), "auto") == ["0.1"]


def test_a_list_of_selectors_is_a_tuple():
    """As in YAML. A function may choose nothing, which is refused."""
    assert names(Net(), ["norm", "linear"]) == names(Net(), ("norm", "linear"))
    with pytest.raises(ConfigError, match="matches no module; allowed: auto"):
        survey(Net(), lambda name, module: False, EXAMPLE)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_are_refused():
    """TorchScript hides the layers; the error names the scripted module, the whole model or a part, and a way out."""
    model = Net()
    model.stem = torch.jit.script(model.stem)
    for scripted, name in ((model.stem, "model"), (model, "stem")):
        message = f"^module '{name}' is scripted, .*: attach to the module that .*, and script it after engine.detach"
        with pytest.raises(ConfigError, match=message):
            survey(scripted, "auto", EXAMPLE)


def test_compiled_modules_are_refused():
    """Compiled code ignores new hooks, whether the model is wrapped, compiled in place or compiled in part."""
    part, whole = Net(), Net()
    part.stem = torch.compile(part.stem)
    whole.compile()
    for model, name in ((torch.compile(Net()), "model"), (part, "stem"), (whole, "model")):
        message = f"^module '{name}' is compiled, which ignores new hooks: attach first, then torch.compile$"
        with pytest.raises(ConfigError, match=message):
            survey(model, "auto", EXAMPLE)
