"""Networks by name: any image size and channels, weights that depend on the seed only, errors in one line."""

import sys

import other_tasks
import pytest
import torch
from samples import MakesFolder
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision import models

from dropopt.config import ConfigError, ModelConfig
from dropopt.known import DATA, NETWORKS, library_networks
from dropopt.randomness import global_stream
from dropopt.training import build_model
from dropopt.training.data.load_data import NAMES
from dropopt.training.networks import reference
from dropopt.training.networks.build_model import REFERENCE
from dropopt.training.networks.reference import Residual
from dropopt.training.networks.torchvision_models import _like
from dropopt.training.networks.untrained import untrained


def build(name, channels=3, classes=7, size=32, seed=0, **options):
    config = ModelConfig(name=name, options=options)
    return build_model(config, channels=channels, classes=classes, image_size=size, seed=seed)


def refused(name, **settings):
    with pytest.raises(ConfigError) as caught:
        build(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Pair(nn.Module):
    """A network with two outputs."""

    def forward(self, *parts, **named):
        return parts, named


class TestReference:
    """small, resnet9, vgg."""

    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize(("size", "channels"), [(4, 1), (5, 4), (28, 1), ((9, 33), 4), (64, 3)])
    def test_any_size_and_channels_train(self, name, size, channels):
        model = build(name, channels, 5, size).to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        x = torch.randn(6, channels, *((size, size) if isinstance(size, int) else size))
        logits = model(x.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(model(x), logits, atol=1e-4)
        F.cross_entropy(logits, torch.arange(6) % 5).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key

    @pytest.mark.parametrize("name", NETWORKS)
    def test_they_contain_no_dropout_and_share_no_module(self, name):
        """The engine adds dropout; every module runs once per forward pass, so the engine can attach to each."""
        model = build(name)
        assert not any(isinstance(module, _DropoutNd) for module in model.modules())
        calls = {}
        for key, module in model.named_modules():
            module.register_forward_hook(lambda m, i, o, key=key: calls.update({key: calls.get(key, 0) + 1}))
        model(torch.zeros(2, 3, 32, 32))
        assert set(calls.values()) == {1}
        assert sum(isinstance(module, _BatchNorm) for module in model.modules()) >= 3

    def test_options_reach_the_builder(self):
        count = sum(p.numel() for p in build("vgg", widths=[8, 16], depth=1, head=32).parameters())
        assert count < 40_000
        takes = "it takes: channels, classes, image_size, widths, head"
        assert refused("small", widht=[8]) == f"model small: unknown option 'widht'; {takes}"
        for widths in ([8], [8] * 5, []):
            assert (
                refused("resnet9", widths=widths) == f"model resnet9: widths must be 4 positive integers, got {widths}"
            )
        for widths in (8, [0], [8, 1.5], ["2"], [True], []):
            for name in ("small", "vgg"):
                expected = f"model {name}: widths must be 1 or more positive integers, got {widths!r}"
                assert refused(name, widths=widths) == expected
        for number in (0, 1.5, "2", True):
            least = f"must be an integer of at least 1, got {number!r}"
            assert refused("small", head=number) == f"model small: head {least}"
            assert refused("vgg", depth=number) == f"model vgg: depth {least}"
        for size in (3, (9, 3)):
            given = (3, 3) if size == 3 else size
            assert refused("small", size=size) == f"model small: images must be at least 4x4, got {given}"
        images = "this network takes images (C, H, W); give a function that builds a network of your own"
        assert refused("vgg", size=(9,)) == f"model vgg: {images}"

    def test_the_layers_are_as_documented(self):
        """small: three convolutions of 32, 64 and 64 channels, halving 28 to 3, and 128 hidden units.

        vgg: two convolutions a stage and 256 hidden units. resnet9: a stem, three stages, and blocks after the first
        and third.
        """

        def shapes(model):
            return [tuple(p.shape) for p in model.parameters() if p.ndim > 1]

        stages = [(32, 1), (64, 32), (64, 64)]
        assert shapes(build("small", 1, 10, 28)) == [*((*s, 3, 3) for s in stages), (128, 64 * 9), (10, 128)]
        stages = [(32, 1), (32, 32), (64, 32), (64, 64), (128, 64), (128, 128)]
        assert shapes(build("vgg", 1, 10, 28)) == [*((*s, 3, 3) for s in stages), (256, 128 * 9), (10, 256)]
        assert shapes(build("vgg", 1, 10, 64))[-2] == (256, 128 * 16), "larger maps are pooled to 4x4"
        assert shapes(build("small", 1, 10, (4, 64)))[-2] == (128, 64 * 2 * 4)
        stages = [(32, 1), (64, 32), (64, 64), (64, 64), (128, 64), (256, 128), (256, 256), (256, 256)]
        assert shapes(build("resnet9", 1, 10, 28)) == [*((*s, 3, 3) for s in stages), (10, 256)]
        kinds = [type(module).__name__ for module in build("small", 1, 10, 16)]
        stage = ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
        assert kinds == [*stage * 3, "Flatten", "Linear", "ReLU", "Linear"]
        model = build("resnet9", 1, 10, 28).eval()
        x = torch.randn(2, 1, 28, 28)
        assert torch.equal(model(x), model[-1](model[:-3](x).amax((2, 3)))), "the last maps are pooled to their maxima"
        x = torch.randn(2, 4, 5, 5)
        block = Residual(4).eval()
        assert torch.equal(block(x), x + block.inside(x))

    def test_a_network_of_several_inputs_is_tested_with_an_example(self, monkeypatch):
        """By position or by name; blank images of several shapes cannot be made."""
        images, vectors, _ = other_tasks._pairs()
        for example in ((images[:2], vectors[:2]), {"picture": images[:2], "vector": vectors[:2]}):
            channels = {"picture": 1, "vector": 5, "place": 1} if isinstance(example, dict) else (1, 5)
            size = {"picture": (8, 8), "vector": (), "place": ()} if isinstance(example, dict) else ((8, 8), ())
            config = ModelConfig(name="other_tasks:two_branches")
            shape = {"channels": channels, "classes": 3, "image_size": size}
            model = build_model(config, **shape, seed=0, example=example)
            out = model(**example) if isinstance(example, dict) else model(*example)
            assert out.shape == (2, 3)
            monkeypatch.setattr(other_tasks, "TwoBranches", lambda *_, model=model: model)
            with pytest.raises(ConfigError) as caught:
                build_model(config, **shape | {"classes": 4}, seed=0, example=example)
            monkeypatch.setattr(other_tasks, "TwoBranches", lambda *_: Pair())
            with pytest.raises(ConfigError, match=r", must return logits \(N, 3\), returned tuple for N = 2$"):
                build_model(config, **shape, seed=0, example=example)
            monkeypatch.undo()
            assert str(caught.value) == (
                "model other_tasks:two_branches, given inputs of 1x8x8 and 5, must return logits (N, 4), returned "
                "(2, 3) for N = 2"
            )


class TestSeed:
    """Initial weights."""

    @pytest.mark.parametrize("name", ["small", "torchvision:squeezenet1_1"])
    def test_weights_depend_on_the_seed_only(self, name):
        """The same seed gives the same weights whatever was drawn before; another seed gives different ones."""
        first = build(name, seed=3)
        torch.rand(17)
        assert equal(first, build(name, seed=3))
        assert not equal(first, build(name, seed=4))
        with global_stream(3, "weights"):
            own = {
                "small": lambda: reference.small(3, 7, (32, 32)),
                "torchvision:squeezenet1_1": lambda: models.squeezenet1_1(num_classes=7),
            }
            assert equal(first, own[name]())

    def test_the_trial_pass_changes_nothing(self):
        before = torch.get_rng_state()
        model = build("small")
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training
        assert {int(module.num_batches_tracked) for module in model.modules() if isinstance(module, _BatchNorm)} == {0}


class TestTorchvision:
    """``torchvision:NAME``."""

    @pytest.mark.parametrize(
        "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"]
    )
    def test_classes_and_channels_fit(self, name):
        model = build(f"torchvision:{name}", channels=2, size=64)
        model.train()
        assert model(torch.randn(2, 2, 64, 64)).shape == (2, 7)

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_pretrained_weights_keep_their_scale(self, monkeypatch, channels):
        """With weights, the head is new and the stem sums over colours: grey images give what grey RGB images gave."""
        torch.manual_seed(0)
        trained = models.resnet18()
        monkeypatch.setattr(models, "get_model", lambda name, **options: trained)
        grey = torch.randn(2, 1, 32, 32)
        expected = trained.conv1(grey.expand(2, 3, 32, 32))
        model = build("torchvision:resnet18", channels=channels, weights="DEFAULT")
        assert torch.allclose(model.conv1(grey.expand(2, channels, 32, 32)), expected, atol=1e-5)
        assert model.fc.out_features == 7
        assert model is trained

    @pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 75)])
    def test_pretrained_auxiliary_heads_are_removed(self, monkeypatch, name, size):
        """Pretrained networks with auxiliary heads and rescaled colours accept small grey images, in training too."""
        builder = getattr(models, name)
        trained = builder(weights=None, init_weights=False, aux_logits=True, transform_input=True)
        monkeypatch.setattr(models, "get_model", lambda name, **options: trained)
        model = build(f"torchvision:{name}", channels=1, size=size, weights="DEFAULT")
        assert model(torch.randn(2, 1, size, size)).shape == (2, 7)

    def test_errors_are_one_line(self):
        """An unknown name, a detector, a wrong option, unknown weights, and images that are too small."""
        none = "torchvision has no such classifier"
        meant = "did you mean resnet18 or resnet152 or resnet101?"
        assert refused("torchvision:resnet81") == f"model torchvision:resnet81: {none}; {meant}"
        detector = "torchvision:fasterrcnn_resnet50_fpn"
        assert refused(detector) == f"model {detector}: {none}"
        assert refused("torchvision:resnet18", foo=1) == (
            "model torchvision:resnet18: options {'num_classes': 7, 'weights': None, 'foo': 1}: "
            "ResNet.__init__() got an unexpected keyword argument 'foo'"
        )
        for weights in ("NOPE", True, 5):
            allowed = "weights must be null, a file (.pth, .pt), or one of IMAGENET1K_V1, DEFAULT"
            message = f"model torchvision:resnet18: {allowed}, got {weights!r}"
            assert refused("torchvision:resnet18", weights=weights) == message
        timms = "pretrained is an option of timm; for torchvision use weights: DEFAULT"
        assert refused("torchvision:resnet18", pretrained=True) == f"model torchvision:resnet18: {timms}"
        message = refused("torchvision:alexnet", size=8)
        assert message.startswith("model torchvision:alexnet, given 3x8x8 images, fails: Given input size: (64x1x1). ")

    def test_weights_that_cannot_be_downloaded(self, monkeypatch):
        """One line says how to go without them."""
        import timm

        def fail(*_, **__):
            raise OSError("no network\nmore")

        monkeypatch.setattr(models, "get_model", fail)
        monkeypatch.setattr(timm, "create_model", fail)
        reason = "weights cannot be downloaded (no network); or use"
        expected = f"model torchvision:resnet18: its {reason} weights: null"
        assert refused("torchvision:resnet18", weights="DEFAULT") == expected
        assert refused("timm:resnet18", pretrained=True) == f"model timm:resnet18: {reason} pretrained: false"

    @pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
    def test_weights_from_a_file(self, name, tmp_path, monkeypatch):
        """All but the output layer are those of the file, whose own number of classes does not matter."""
        monkeypatch.setenv("HOME", str(tmp_path))
        outputs = 1000 if name == "squeezenet1_1" else 5
        trained = models.get_model(name, num_classes=outputs)
        torch.save(trained.state_dict(), tmp_path / "w.pth")
        model = build(f"torchvision:{name}", size=64, weights="~/w.pth")
        head = "fc" if name.startswith("shuffle") else "classifier.1"
        before, after = trained.state_dict(), model.state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == {f"{head}.weight", f"{head}.bias"}
        assert after[f"{head}.weight"].shape[0] == 7
        grey = build(f"torchvision:{name}", size=64, channels=2, weights=str(tmp_path / "w.pth")).state_dict()
        first = next(iter(before))
        expected = before[first].sum(1, keepdim=True).expand(-1, 2, -1, -1) / 2
        assert torch.allclose(grey[first], expected)
        missing = refused(f"torchvision:{name}", weights=str(tmp_path / "none.pt"))
        assert missing == (
            f"model torchvision:{name}: {tmp_path / 'none.pt'} does not exist; to write torchvision's weights to it: "
            f"python -c \"import torch, torchvision; torch.save(torchvision.models.get_model('{name}', "
            f"weights='DEFAULT').state_dict(), '{tmp_path / 'none.pt'}')\""
        )
        torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
        wrong = refused(f"torchvision:{name}", weights=str(tmp_path / "other.pth"))
        assert wrong.startswith(
            f"model torchvision:{name}: {tmp_path / 'other.pth'} does not hold the weights of {name}: "
        )

    def test_a_file_of_weights_cannot_run_code(self, tmp_path):
        """A pickle of anything but tensors is refused before it is read."""
        torch.save({"fc.weight": MakesFolder(tmp_path / "ran")}, tmp_path / "w.pth")
        message = refused("torchvision:resnet18", weights=str(tmp_path / "w.pth"))
        assert message.startswith(f"model torchvision:resnet18: {tmp_path / 'w.pth'} holds no weights: ")
        assert not (tmp_path / "ran").exists()

    def test_a_replaced_layer_is_like_the_old_one(self):
        """But for the number of its inputs or outputs."""
        old = nn.Conv2d(3, 4, (3, 5), (2, 1), (1, 2), (1, 2), bias=False)
        new = _like(old, inside=6)
        for name in ("kernel_size", "stride", "padding", "dilation", "out_channels", "bias"):
            assert getattr(new, name) == getattr(old, name)
        assert (new.in_channels, _like(old, outside=9).out_channels, _like(old, outside=9).in_channels) == (6, 9, 3)
        linear = _like(nn.Linear(3, 4), outside=5)
        assert (linear.in_features, linear.out_features, linear.bias is not None) == (3, 5, True)
        assert _like(nn.Linear(3, 4, bias=False), inside=2).bias is None


class TestTimm:
    """``timm:NAME``."""

    def test_classes_and_channels_fit(self):
        """Classes and channels are passed to timm; other options reach its builder."""
        assert build("timm:resnet10t", channels=2, classes=3)(torch.zeros(2, 2, 32, 32)).shape == (2, 3)
        build("timm:vit_tiny_patch16_224", img_size=32, depth=2)
        options = "options {'num_classes': 7, 'in_chans': 3, 'act_layer': 'x'}: KeyError: 'x'"
        assert refused("timm:resnet10t", act_layer="x") == f"model timm:resnet10t: {options}"
        attribute = "AttributeError: 'ResNet' object has no attribute 'layer1'"
        assert refused("timm:resnet10t", layers=[]) == f"model timm:resnet10t, given 3x32x32 images, fails: {attribute}"
        assert "doesn't match model (224)" in refused("timm:vit_tiny_patch16_224", depth=2)
        meant = "timm has no such model; did you mean resnet10t or resnet50t or resnet14t?"
        assert refused("timm:resnet10tt") == f"model timm:resnet10tt: {meant}"
        hub = "timm:hf-hub:someone/something"
        assert refused(hub) == f"model {hub}: timm has no such model"

    def test_settings_cannot_name_files_to_read(self):
        """Options that would load a file or URL named in a settings file are refused."""
        for option in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            barred = f"option {option!r} is not allowed here; a function of your own may use it"
            assert refused("timm:resnet10t", **{option: "evil.pth"}) == f"model timm:resnet10t: {barred}"

    def test_without_timm_the_error_says_what_to_install(self, monkeypatch):
        """timm is optional; without it, one line says how to install it."""
        monkeypatch.setitem(sys.modules, "timm", None)
        assert refused("timm:resnet18") == "model timm:resnet18: timm is not installed; pip install timm"


OWN = """
from torch import nn
from subprocess import run
def shaped(channels, classes, image_size, width=4):
    h, w = image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * h * w, width), nn.Linear(width, classes))
def fixed():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
def anything(**given):
    assert set(given) == {"channels", "classes", "image_size", "deep"}
    return fixed()
class Network(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inside = fixed()
    def forward(self, x):
        return self.inside(x)
def wrong():
    return "a network"
def features():
    return nn.Flatten()
def broken():
    return nn.Linear(3, 3)
"""


class TestOwn:
    """``module:function``."""

    @pytest.fixture(autouse=True)
    def _module(self, own_module):
        own_module("own_model_test", OWN)

    @pytest.mark.parametrize("function", ["shaped", "fixed", "anything", "Network"])
    def test_a_function_gets_the_arguments_it_accepts(self, function):
        """channels, classes and image_size are passed if the function has such parameters; a class works as well."""
        options = {"deep": 1} if function == "anything" else {}
        model = build(f"own_model_test:{function}", size=(4, 6), **options)
        assert model(torch.zeros(3, 3, 4, 6)).shape == (3, 7)

    def test_options_are_its_arguments(self):
        """Options are passed by name; an unknown one is refused with the accepted ones."""
        assert build("own_model_test:shaped", size=4, width=9)[1].out_features == 9
        assert "it takes: channels, classes, image_size, width" in refused("own_model_test:shaped", depth=3)
        assert "it takes: no options" in refused("own_model_test:fixed", depth=3)

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            ("wrong", "model {}: expected a torch.nn.Module, got str"),
            ("features", "model {}, given 3x4x4 images, must return logits (N, 7), returned (2, 48) for N = 2"),
            (
                "broken",
                "model {}, given 3x4x4 images, fails: mat1 and mat2 shapes cannot be multiplied (24x4 and 3x3)",
            ),
            ("run", "{}: 'run' must be defined in 'own_model_test', not imported there"),
        ],
    )
    def test_anything_but_a_classifier_is_refused(self, function, said):
        """A function whose module does not map such images to logits is refused before training."""
        name = f"own_model_test:{function}"
        assert refused(name, size=4) == said.format(name)

    def test_shipped_studies_may_be_named(self, tmp_path, monkeypatch):
        """Functions of the studies shipped with dropopt can be named, those of other installed packages cannot."""
        studies = tmp_path / "site-packages" / "dropopt" / "studies"
        studies.mkdir(parents=True)
        (studies / "shipped_model_test.py").write_text(OWN)
        monkeypatch.syspath_prepend(studies)
        assert "is not your own code" in refused("shipped_model_test:fixed")
        monkeypatch.setattr("dropopt.owncode._SHIPPED", studies)
        assert isinstance(build("shipped_model_test:fixed"), nn.Module)
        sys.modules.pop("shipped_model_test")


def test_unknown_names_get_a_suggestion():
    """A misspelt name is refused with the closest one and a list of all."""
    known = "known: small, resnet9, vgg, torchvision:NAME, timm:NAME, module:function"
    for name, meant in (("smal", "small"), ("torchvision:", "torchvision:NAME"), ("timm:", "timm:NAME")):
        assert refused(name) == f"model.name {name!r} is unknown; did you mean {meant!r}? {known}"
    assert refused(":x") == "':x' does not name a function; expected module:function"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "did you mean torchvision:resnet18 or timm:resnet18?"),
        ("EfficientNet_B0", "did you mean torchvision:efficientnet_b0 or timm:efficientnet_b0?"),
        ("resnext50_32x4", "did you mean torchvision:resnext50_32x4d?"),
        ("convnextv2_atto", "did you mean timm:convnextv2_atto?"),
        ("qqq", "known: small, resnet9, vgg, torchvision:NAME"),
    ],
)
def test_a_library_is_suggested(name, said):
    """The exact name in torchvision and timm, else the closest name anywhere."""
    assert f"is unknown; {said}" in refused(name)


def test_the_known_names_are_those_of_the_readers_and_libraries():
    """They are written or read without importing what takes long to import."""
    import timm

    assert NAMES == DATA
    assert tuple(REFERENCE) == NETWORKS
    assert library_networks("torchvision") == {*models.list_models(module=models)}
    assert library_networks("timm") == {*timm.list_models()}
    assert library_networks("no_such_library") == frozenset()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_what_weights_change_is_kept(name):
    """torchvision's networks that rescale colours do so with weights; the options say it without them."""
    options = untrained(ModelConfig(name=f"torchvision:{name}", options={"weights": "DEFAULT"}))
    assert options == {"weights": None, "transform_input": True}
    assert untrained(ModelConfig(name=f"torchvision:{name}")) == {}
    assert untrained(ModelConfig(name="timm:resnet18", options={"pretrained": True})) == {"pretrained": False}
