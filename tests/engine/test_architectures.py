"""Every classification network of torchvision, and timm's convolutional families, can be attached to and trained."""

import warnings

import pytest
import timm
import torch
import torchvision
from residual_net import assert_same, snapshot
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

import dropopt
from dropopt.config import EngineConfig

#: A small one of most families of torchvision; ``--all-architectures`` tests all of them.
TORCHVISION = (
    "efficientnet_b0 googlenet mnasnet0_5 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1"
)
#: Small networks of the classes of which even torchvision's smallest take seconds.
MINIATURES = {
    "convnext": lambda: models.ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=4),
    "densenet": lambda: models.DenseNet(8, (2, 3), 16, num_classes=4),
    "swin": lambda: models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], num_classes=4),
    "vit": lambda: models.VisionTransformer(64, 16, 3, 4, 32, 64, num_classes=4),
}
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
        metafunc.parametrize("torchvision_name", every if everything else [*TORCHVISION.split(), *MINIATURES])
    if "timm_name" in metafunc.fixturenames:
        metafunc.parametrize("timm_name", (TIMM + TIMM_REST * everything).split())


def assert_trains(model, size):
    """Attach with ``auto``, train for one step, call ``step`` and detach."""
    model.train()
    example = torch.randn(2, 3, size, size)
    before = snapshot(model)
    engine = dropopt.attach(model, EngineConfig(allocation="feature"), example=example, complexity=0.5)
    state = model.state_dict()
    after = snapshot(model)
    old = before.pop("hooks")
    assert engine.sites.keys() == {name for name, hooks in after.pop("hooks").items() if hooks != old[name]}
    assert_same(before, after)
    depths = [place.depth for place in engine.places.values()]
    assert depths == sorted(depths)
    assert 0 < depths[0] <= depths[-1] <= 1
    assert len(depths) >= 2
    output = model(example)
    getattr(output, "logits", output).square().mean().backward()
    assert all(site.count == 1 for site in engine.sites.values())  # each ran once, and was scored
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
    """Every classification network of torchvision can be attached to, trained and detached from."""
    name, size, options = torchvision_name, 64, {}
    if name in MINIATURES:
        assert_trains(MINIATURES[name](), size)
        return
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
    """timm's convolutional networks can be attached to, trained and detached from."""
    with warnings.catch_warnings():
        model = timm.create_model(timm_name, num_classes=4)
    whole = (
        model.default_cfg.get("fixed_input_size") or timm_name == "halonet26t"
    )  # attends to blocks of 8 at stride 32
    size = model.default_cfg["input_size"][-1] if whole else 96
    assert_trains(model, size)
