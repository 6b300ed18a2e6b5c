"""Attaching: which layers become sites, what is refused and in which words, and that nothing of it leaves a trace."""

import re
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

import dropopt
from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine.places.find import find_places

#: One or two of each family of torchvision; ``--all-architectures`` runs every one.
TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5 mobilenet_v3_small "
    "regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t vit_b_16"
)
#: timm's own miniatures, and small members of other families.
TIMM = (
    "test_byobnet test_convnext test_efficientnet test_mambaout test_maxvit test_nfnet test_resnet test_vit "
    "mobilenetv3_small_050 ghostnet_050 regnetx_002 dla46_c mobilevit_xxs repvit_m0_9"
)
TIMM_REST = (
    " gernet_s repvgg_a0 mobileone_s0 resnext26ts botnet26t_256 lambda_resnet26t halonet26t convmixer_768_32 "
    "convnextv2_atto cs3darknet_focus_s cspresnet50 densenet121 dpn48b ese_vovnet19b_slim resnet10t edgenext_xx_small "
    "test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln mobilenetv4_conv_small_050 hardcorenas_a "
    "hgnetv2_b0 hrnet_w18_small inception_next_atto inception_v3 inception_v4 inception_resnet_v2 lcnetv2_small "
    "legacy_seresnet18 legacy_xception repghostnet_050 res2net50_14w_8s resnest14d resnetv2_18 rexnet_100 selecsls42 "
    "skresnet18 starnet_s1 fasternet_t0 tresnet_m vgg11 vgg11_bn xception41 poolformer_s12 rdnet_tiny shvit_s1 "
    "efficientformerv2_s0 fastvit_t8 nasnetalarge pnasnet5large"
)


def pytest_generate_tests(metafunc):
    everything = metafunc.config.getoption("--all-architectures")
    if "torchvision_name" in metafunc.fixturenames:
        every = torchvision.models.list_models(module=torchvision.models)
        metafunc.parametrize("torchvision_name", every if everything else TORCHVISION.split())
    if "timm_name" in metafunc.fixturenames:
        metafunc.parametrize("timm_name", (TIMM + TIMM_REST * everything).split())


class Residual(nn.Module):
    """conv, norm, a sum with the input, an in-place ReLU that is used twice."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        """Sum, then ReLU."""
        return self.relu(self.norm(self.conv(self.relu(x))) + x)


class Net(nn.Module):
    """A stem, two residual blocks, a hidden layer, an output layer, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.stem_norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Residual(6), Residual(6))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(24, 10)
        self.act = nn.ReLU()
        self.head = nn.Linear(10, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        """Logits."""
        x = self.pool(self.blocks(self.stem_norm(self.stem(x))))
        return self.head(self.act(self.hidden(x.flatten(1))))


class Pair(nn.Module):
    """Returns two tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        """Logits."""
        y = self.conv(x)
        return y, y


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


def names(model, sites, example=EXAMPLE):
    return [place.name for place in find_places(model, sites, example)]


def snapshot(model):
    """All that attaching has to leave alone."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [(name, module.training, len(module._forward_hooks), type(module)) for name, module in model.named_modules()],
        [parameter.grad for parameter in model.parameters()],
        torch.get_rng_state(),
    )


def assert_same(one, other):
    (state, modules, gradients, rng), (state_2, modules_2, gradients_2, rng_2) = one, other
    assert list(state) == list(state_2)
    assert all(torch.equal(value, state_2[key]) for key, value in state.items())
    assert modules == modules_2
    assert all(a is b for a, b in zip(gradients, gradients_2, strict=True))
    assert torch.equal(rng, rng_2)


# -- selectors


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


def test_auto_falls_back_from_blocks_to_norms_to_convolutions():
    """Without residual blocks auto takes norms and hidden linear layers that no norm follows; without norms, convs."""
    conv, linear = nn.Conv2d(3, 4, 3), nn.LazyLinear(6)
    assert names(plain(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), linear), "auto") == ["1", "4"]
    normed = plain(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(6), nn.LayerNorm(6))
    assert names(normed, "auto") == ["3"]
    assert names(plain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), "auto") == ["0", "2"]


def test_the_setting_of_the_config_is_the_selector_unless_given():
    """``config.sites`` chooses, ``sites=`` overrides it, for the engine and for baselines."""
    for config in (EngineConfig(sites="conv"), Baseline(kind="dropout2d", sites="conv")):
        with dropopt.attach(Net(), config, example=EXAMPLE) as engine:
            assert list(engine.sites) == ["stem", "blocks.0.conv", "blocks.1.conv"]
        with dropopt.attach(Net(), config, example=EXAMPLE, sites="last:1") as engine:
            assert list(engine.sites) == ["blocks.1"]


def test_places_know_their_features_depth_and_weights():
    """Depth is the share of weighted layers run, in (0, 1]; a norm's features come from the convolution before it."""
    model = Net()
    places = {place.name: place for place in find_places(model, ("norm", "block", "linear"), EXAMPLE)}
    assert [place.depth for place in places.values()] == [0.2, 0.4, 0.4, 0.6, 0.6, 0.8]
    assert places["stem_norm"].weighted == (model.stem, model.stem_norm)
    assert places["hidden"].weighted == (model.hidden,)
    assert places["blocks.0"].weighted == ()
    assert [(p.axis, p.features, p.ndim) for p in places.values()] == [(1, 6, 4)] * 5 + [(-1, 10, 2)]


class Tokens(nn.Module):
    """A residual block over tokens (N, L, D), or over maps (N, C, L), whose sizes may be equal."""

    def __init__(self, layer, norm):
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x):
        """Logits."""
        return x + self.layer(self.norm(x))


@pytest.mark.parametrize("size", [6, 9])
def test_the_feature_dimension_is_found_where_sizes_are_equal(size):
    """Channels come first after convolutions and last after linear layers, also where C = L."""
    last = [Tokens(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in range(3)]
    first = [Tokens(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6)) for _ in range(3)]
    maps = [Tokens(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in range(3)]
    maps.append(nn.LayerNorm(6))
    for layers, shape, axis in ((last, (2, size, 6), -1), (first, (2, 6, size), 1), (maps, (2, size, 5, 6), -1)):
        places = find_places(plain(*layers), "block", torch.randn(shape))
        assert [(place.axis, place.features) for place in places] == [(axis, 6)] * 3


def test_a_layer_norm_over_maps_keeps_channels_first():
    """timm's and torchvision's LayerNorm2d inherit from LayerNorm, yet their features are on dimension 1."""
    norms = (timm.layers.LayerNorm2d(4), timm.layers.LayerNormAct2d(4), torchvision.models.convnext.LayerNorm2d(4))
    for norm in norms:
        (place,) = find_places(plain(nn.Conv2d(3, 4, 3), norm), "norm", EXAMPLE)
        assert (place.axis, place.features) == (1, 4)


# -- refusals

AVAILABLE = "allowed: auto, conv (3), norm (3), linear (1), block (2), last:k, a pattern on module names such as 'h*'"


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("layer*", f"sites 'layer*' matches no module; {AVAILABLE}"),
        (("conv", "layer*"), f"sites 'layer*' matches no module; {AVAILABLE}"),
        ("last:0", "sites 'last:0': last:k takes a whole number k >= 1, such as last:2"),
        ("last:two", "sites 'last:two': last:k takes a whole number k >= 1, such as last:2"),
        ("head", "module 'head' gives the network's output: dropout there would drop classes"),
        ("unused", "module 'unused' did not run in the forward pass: it cannot be a site"),
        (
            "blocks.0.relu",
            "module 'blocks.0.relu' fires 2 times in one forward pass: one mask cannot serve it; "
            "choose other sites (say 'norm' or 'conv'), or give each use a module",
        ),
    ],
)
def test_what_cannot_be_a_site_is_refused_by_name(sites, message):
    """One line says which module or selector cannot be used, and what is allowed; the model is left as it was."""
    model = Net()
    before = snapshot(model)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        dropopt.attach(model, EngineConfig(), example=EXAMPLE, sites=sites)
    assert_same(before, snapshot(model))


def test_a_function_that_selects_nothing_is_an_error():
    """A callable that matches nothing is an error, not a warning."""
    with pytest.raises(ConfigError, match="matches no module; allowed: auto"):
        find_places(Net(), lambda name, module: False, EXAMPLE)


def test_torchvisions_shared_relu_is_refused():
    """ResNet's one ReLU serves two widths in a block."""
    model = torchvision.models.resnet18(num_classes=4)
    with pytest.raises(ConfigError, match=r"^module 'layer1\.0\.relu' fires 2 times in one forward pass"):
        find_places(model, "layer1.0.relu", torch.randn(1, 3, 32, 32))


def test_a_module_that_returns_several_tensors_is_refused():
    """A tuple has no feature dimension, nor has a vector without features."""

    class Wrap(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.fc = Pair(), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.pair(x)[0].mean((2, 3)))

    with pytest.raises(ConfigError, match=r"^module 'pair' returns tuple: no feature dimension to drop$"):
        find_places(Wrap(), "pair", EXAMPLE)


def test_a_model_without_layers_is_refused():
    """There is nothing to put dropout behind."""
    message = "^model Flatten runs no convolution or linear layer to put dropout behind$"
    with pytest.raises(ConfigError, match=message):
        find_places(nn.Flatten(), "auto", EXAMPLE)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_are_refused():
    """TorchScript hides its layers: the whole, or the part, that is scripted is named."""
    model = Net()
    scripted = torch.jit.script(plain(nn.Conv2d(3, 4, 3), nn.Linear(6, 6))[0])
    with pytest.raises(
        ConfigError, match=r"^module 'model' is scripted, which hides its layers: attach before scripting$"
    ):
        find_places(scripted, "auto", EXAMPLE)
    model.stem = torch.jit.script(model.stem)
    with pytest.raises(
        ConfigError, match=r"^module 'stem' is scripted, which hides its layers: attach before scripting$"
    ):
        find_places(model, "auto", EXAMPLE)


def test_compiled_modules_are_refused():
    """What is compiled already ignores new hooks: wrapped, in place, or a part of the model."""
    part, whole = Net(), Net()
    part.stem = torch.compile(part.stem)
    whole.compile()
    for model, name in ((torch.compile(Net()), "model"), (part, "stem"), (whole, "model")):
        message = f"^module '{name}' is compiled, which ignores new hooks: attach first, then torch.compile$"
        with pytest.raises(ConfigError, match=message):
            find_places(model, "auto", EXAMPLE)


# -- no trace


@pytest.mark.parametrize("training", [True, False])
def test_attaching_and_detaching_leave_the_model_bit_identical(training):
    """Weights, BatchNorm statistics, keys, classes, training flags, .grad, hooks and random state are as before."""
    model = Net().train(training)
    model.blocks[0].norm.eval()  # a frozen BatchNorm inside a model that trains
    example = EXAMPLE.clone()
    before = snapshot(model)
    with dropopt.attach(model, EngineConfig(allocation="feature"), example=example, sites=("norm", "block")):
        hooked = {name for name, _, hooks, _ in snapshot(model)[1] if hooks}
        assert hooked == {"stem_norm", "blocks.0", "blocks.0.norm", "blocks.1", "blocks.1.norm"}
    assert_same(before, snapshot(model))
    assert torch.equal(example, EXAMPLE)
    assert not example.requires_grad


def test_a_failing_forward_leaves_no_trace():
    """Hooks come off and flags come back when the example does not fit, or training fails half way."""
    model = Net().train()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        find_places(model, "auto", torch.zeros(2, 5, 8, 8))
    with pytest.raises(KeyError), dropopt.attach(model, EngineConfig(), example=EXAMPLE):
        raise KeyError
    assert_same(before, snapshot(model))


def test_the_random_state_is_no_further_after_attaching():
    """Changing the engine changes neither initial weights nor data order, though a model may draw in its forward."""

    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    def drawn(config):
        torch.manual_seed(0)
        model = Noisy()
        if config is not None:
            dropopt.attach(model, config, example=EXAMPLE)
        return torch.rand(3)

    configs = (None, Baseline(kind="none"), EngineConfig(r0=0.1), EngineConfig(r0=0.6, pattern="spatial", sites="norm"))
    first, *others = [drawn(config) for config in configs]
    assert all(torch.equal(first, other) for other in others)


# -- architectures


def assert_trains(model, size):
    """Attach to all that auto finds, train one step, let a whole step of the engine pass, and come off."""
    model.train()
    example = torch.randn(2, 3, size, size)
    before = snapshot(model)
    engine = dropopt.attach(model, EngineConfig(allocation="feature"), example=example)
    state, modules, gradients, rng = snapshot(model)
    after = (state, [(n, t, h - (n in engine.sites), c) for n, t, h, c in modules], gradients, rng)
    assert_same(before, after)
    depths = [place.depth for place in engine.places.values()]
    assert depths == sorted(depths)
    assert 0 < depths[0] <= depths[-1] <= 1
    assert len(depths) >= 2
    output = model(example)
    getattr(output, "logits", output).square().mean().backward()
    assert all(site.count == 1 for site in engine.sites.values())  # each fired once, and was scored
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    engine.step(epoch=1, epochs=2, val_loss=2.0, train_loss=1.0, val_accuracy=0.5)
    assert all(0 < row["applied"] <= 0.95 for row in engine.rates())
    trained = {key: value.clone() for key, value in model.state_dict().items()}
    engine.detach()
    assert list(trained) == list(state)
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore")  # the libraries' own, about shapes and initial weights
def test_torchvision_architecture_trains(torchvision_name):
    """Every classification network of torchvision takes sites without edits, and gives them back."""
    name, size, options = torchvision_name, 64, {}
    if name.startswith("vit"):
        size = options["image_size"] = 56 if name.endswith("14") else 32
    elif name == "inception_v3":
        size, options = 96, {"aux_logits": False, "init_weights": False}
    elif name == "googlenet":
        options = {"init_weights": False}
    elif name.startswith("maxvit"):
        size = 224
    assert_trains(torchvision.models.get_model(name, num_classes=4, **options), size)


@pytest.mark.filterwarnings("ignore")
def test_timm_architecture_trains(timm_name):
    """So do timm's families of convolutional networks."""
    with warnings.catch_warnings():
        model = timm.create_model(timm_name, num_classes=4)
    whole = (
        model.default_cfg.get("fixed_input_size") or timm_name == "halonet26t"
    )  # attends to blocks of 8 at stride 32
    size = model.default_cfg["input_size"][-1] if whole else 96
    assert_trains(model, size)
