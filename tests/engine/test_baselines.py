"""A baseline applies the module of torch, torchvision or timm at the engine's places."""

import sys

import pytest
import timm
import torch
import torchvision
from networks import Network
from residual_net import EXAMPLE, Added, Net
from small_net import make, train
from torch import nn

import dropopt
from dropopt.config import Baseline, ConfigError

HOST = nn.Identity().train()
PARTS = {"dropout": nn.Dropout(0.4), "dropout2d": nn.Dropout2d(0.4), "dropblock": torchvision.ops.DropBlock2d(0.4, 3)}


def drawn(function, *given):
    torch.manual_seed(1)
    return function(*given)


def assert_same_draws(site, part, x):
    """The site draws what the library's function draws, bit for bit; its features may come last."""
    expected = drawn(part, x.movedim(site.axis, 1)).movedim(1, site.axis)
    assert torch.equal(drawn(site.hook, HOST, (), x), expected)
    assert (expected == 0).any()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        *(({"kind": kind, "p": 0.4}, part) for kind, part in PARTS.items()),
        (
            {"kind": "dropblock", "library": "timm", "p": 0.8, "block_size": 4, "schedule": "linear"},
            timm.layers.DropBlock2d(0.4, 4),
        ),
    ],
)
def test_a_baseline_is_the_librarys_own_module(settings, part):
    """Of torch, torchvision or timm, which has even blocks too, at the scheduled rate."""
    model, engine = make(Baseline(**settings))
    engine.step(epoch=2, epochs=4)
    assert list(engine.sites) == ["one.norm", "two.norm"]
    for site in engine.sites.values():
        assert_same_draws(site, part, torch.randn(4, 6, 6, 6))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, engine=engine)
    assert [row["applied"] for row in engine.rates()] == [settings["p"]] * 2


def test_dropblock_fits_every_map():
    """A block that does not fit the map, or would become even in torchvision, is reduced to the next odd size."""
    _, engine = make(Baseline(kind="dropblock", p=0.3, block_size=5))
    site = engine.sites["one.norm"]
    for size, block in (((2, 2), 1), ((4, 4), 3), ((3, 3), 3), ((5, 5), 5), ((6, 6), 5), ((3, 6), 3), ((7, 4), 3)):
        assert_same_draws(site, torchvision.ops.DropBlock2d(0.3, block), torch.ones(4, 2, *size))


@pytest.mark.parametrize(
    ("layer", "part", "size"),
    [
        (nn.Conv1d(2, 8, 3), nn.Dropout1d(0.4), (6,)),
        (nn.Conv3d(2, 8, 3), nn.Dropout3d(0.4), (6, 6, 6)),
        (nn.Linear(2, 8), nn.Dropout(0.4), ()),
    ],
)
def test_dropout2d_drops_whole_channels_of_signals_and_volumes(layer, part, size):
    """It is torch's Dropout1d and Dropout3d there, and Dropout on vectors."""
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).train()
    example, config = torch.rand(2, 2, *size), Baseline(kind="dropout2d", p=0.4)
    with dropopt.attach(model, config, example=example, sites="1") as engine:
        assert engine.sites["1"].axis == 1
        assert_same_draws(engine.sites["1"], part, torch.ones(64, 8, *size))


def test_stochastic_depth_draws_what_the_libraries_draw():
    """Whole branches of single samples, scaled by 1 / (1 - p), as torchvision and timm do."""
    model = Net().train()
    with dropopt.attach(model, Baseline(kind="stochastic_depth", p=0.3), example=EXAMPLE, sites="block") as engine:
        x, branch = torch.randn(64, 6, 5, 5), torch.rand(64, 6, 5, 5) + 0.5
        mine = drawn(engine.sites["blocks.0"].hook, HOST, (x,), x + branch)
        model(EXAMPLE).sum().backward()
    torch.testing.assert_close(mine, x + drawn(torchvision.ops.stochastic_depth, branch, 0.3, "row"))
    torch.testing.assert_close(mine, x + drawn(timm.layers.drop_path, branch, 0.3, True))
    assert 0 < (mine == x).flatten(1).all(1).sum() < 64


def test_places_that_stochastic_depth_cannot_skip_are_named():
    """Where a block halves the map, its rate is 0 and the summary says so. If that is so everywhere, attach warns."""
    baseline, example = Baseline(kind="stochastic_depth", p=0.5), torch.randn(2, 3, 32, 32)
    with dropopt.attach(torchvision.models.resnet18(num_classes=3), baseline, example=example) as engine:
        halved = {"layer2.0", "layer3.0", "layer4.0"}
        assert {row["site"]: row["applied"] for row in engine.rates()} == {
            name: 0.0 if name in halved else 0.5 for name in engine.places
        }
        last = "nothing is dropped at layer2.0 and 2 more: the output has another shape than the input"
        assert engine.summary().splitlines()[-1] == last
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    with pytest.warns(UserWarning, match=r"^stochastic_depth drops nothing, .*: choose other sites") as warned:
        engine = dropopt.attach(plain, baseline, example=torch.randn(2, 3, 8, 8))
    assert warned[0].filename == __file__
    end = "nothing is dropped at 0: the output has another shape than the input"
    assert engine.summary().splitlines()[-1] == end
    engine.detach()
    assert not dropopt.attach(plain, Baseline(kind="none"), example=torch.randn(2, 3, 8, 8)).sites


def test_stochastic_depth_without_the_input_is_refused():
    """A block that changes its input in place, or takes it by name, would never be skipped."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), Added(), Added(), nn.Flatten(), nn.LazyLinear(4))
    baseline = Baseline(kind="stochastic_depth", p=0.5, sites="block")
    with dropopt.attach(model, baseline, example=EXAMPLE):
        message = "^stochastic_depth replaces the output of module Added by its input"
        for call in (lambda: model.train()(EXAMPLE), lambda: model[1](x=torch.randn(2, 6, 4, 4))):
            with pytest.raises(ConfigError, match=message):
                call()
        assert model.eval()(EXAMPLE).shape == (len(EXAMPLE), 4)


def test_the_linear_schedule_rises_from_zero_to_p():
    """'linear' rises from 0 at the start to p at the end, 'constant' is p throughout, and kind 'none' drops nothing."""
    for kind, schedule, expected in (
        ("dropout", "linear", [0.0, 0.1, 0.4]),
        ("dropblock", "linear", [0.0, 0.1, 0.4]),
        ("dropout2d", "constant", [0.4, 0.4, 0.4]),
        ("none", "constant", [0.0, 0.0, 0.0]),
    ):
        _, engine = make(Baseline(kind=kind, p=0.4, schedule=schedule))
        seen = []
        for epoch in (0, 1, 4):
            engine.step(epoch=epoch, epochs=4, val_loss=1.0, train_loss=1.0, val_accuracy=0.5)
            seen += {row["applied"] for row in engine.rates()}
            assert all(site.part.p == seen[-1] for site in engine.sites.values())
        assert seen == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["dropout", "dropout2d", "dropblock"])
def test_features_may_come_last(kind):
    """Maps with channels innermost are masked as maps; on tokens and vectors every kind is plain dropout."""
    parts = {"maps": nn.LayerNorm(6), "tokens": nn.Linear(6, 8), "vectors": nn.Linear(8, 10), "head": nn.Linear(10, 4)}
    model = Network(
        lambda self, x: self.head(self.vectors(self.tokens(self.maps(x).flatten(1, 2)).mean(1))), **parts
    ).train()
    x = torch.rand(16, 5, 7, 6) + 0.5
    baseline, sites = Baseline(kind=kind, p=0.4), ("maps", "tokens", "vectors")
    with dropopt.attach(model, baseline, example=x, sites=sites) as engine:
        assert [repr(site).splitlines()[1].strip() for site in engine.sites.values()] == ["axis=-1"] * 3
        for site, y in zip(engine.sites.values(), (x, x.flatten(1, 2), x[:, 0, 0]), strict=True):
            assert_same_draws(site, PARTS[kind] if y is x else nn.Dropout(0.4), y)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"kind": "dropblock", "p": 0.2, "schedule": "linear"}, "dropblock, linear p = 0.2"),
        ({"kind": "dropout", "p": 0.25}, "dropout, constant p = 0.25"),
        ({"kind": "none"}, "no dropout"),
    ],
)
def test_a_baseline_describes_itself(settings, shown):
    """Its method and its places, with the current rates, in ``repr`` and in the summary."""
    engine = dropopt.attach(Net(), Baseline(**settings), example=EXAMPLE, sites=("stem_norm", "hidden"))
    rate = {"dropblock": 0.0, "dropout": 0.25, "none": 0.0}[settings["kind"]]
    assert engine.rates() == [
        {"site": "stem_norm", "depth": 0.2, "applied": rate},
        {"site": "hidden", "depth": 0.8, "applied": rate},
    ]
    assert repr(engine) == f"BaselineEngine(Net, 2 places, {shown})"
    engine.step(epoch=1, epochs=2)
    rate = {"dropblock": 0.1}.get(settings["kind"], rate)
    assert engine.summary().splitlines() == [
        f"Net: 2 places, {shown}, 50% of training done",
        "place      module       output     depth  applied",
        f"stem_norm  BatchNorm2d  6 x 6 x 6   0.20    {rate:.3f}",
        f"hidden     Linear       10          0.80    {rate:.3f}",
    ]
    engine.detach()
    assert repr(engine) == f"BaselineEngine(Net, 2 places, {shown}{'' if settings['kind'] == 'none' else ', detached'})"


def test_timms_dropblock_needs_timm(monkeypatch):
    """Without timm the error says what to type."""
    monkeypatch.setitem(sys.modules, "timm.layers.drop", None)
    with pytest.raises(ConfigError, match=r"^timm is not installed; pip install timm$"):
        make(Baseline(kind="dropblock", library="timm"))
