"""What a site does while training: whom it follows, what it scores, which updates it drops; and what baselines do."""

import copy

import pytest
import timm
import torch
import torchvision
from small_net import Net, batch, make, train
from torch import nn

import dropopt
from dropopt import equations
from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine.importance import running as scores
from dropopt.engine.site import DropoutSite

KINDS = ("none", "dropout", "dropout2d", "dropblock", "stochastic_depth")
PATTERNS = ("element", "channel", "structured", "spatial", "own")
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


# -- train and eval


def test_eval_and_detached_models_drop_nothing():
    """model.eval() silences every site, for the engine and for each baseline; so does detach()."""
    images, _ = batch()
    plain = Net().eval()
    for config in (EngineConfig(r0=0.9), *(Baseline(kind=kind, p=0.9) for kind in KINDS)):
        model, engine = make(config)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model.eval()(images), plain(images))
        engine.detach()
        model.train()
        torch.manual_seed(0)
        assert torch.equal(model(images), model(images))


def test_a_site_follows_its_own_host():
    """A frozen block, in eval mode inside a model that trains, drops nothing; the others go on."""
    model, engine = make(EngineConfig(r0=0.9))
    model.one.norm.eval()
    seen = {}
    for name in ("one", "two"):
        getattr(model, name).norm.register_forward_hook(lambda m, a, y, name=name: seen.update({name: (y == 0).any()}))
    model(batch()[0])
    assert seen == {"one": False, "two": True}
    with engine.silent():
        model(batch()[0])
    assert seen == {"one": False, "two": False}


@every_pattern
def test_samples_do_not_see_each_other(pattern):
    """A sample's mask does not depend on what else is in the batch: the scale is 1/(1 - p), not the realised count."""
    site = DropoutSite(1, 4, pattern, 2)
    site.p.fill_(0.5)
    host, x = nn.Identity(), torch.rand(8, 4, 5, 5) + 0.5
    changed = torch.cat([x[:1], 7 * torch.rand(7, 4, 5, 5)])
    torch.manual_seed(0)
    first = site.hook(host, (), x)
    torch.manual_seed(0)
    assert torch.equal(site.hook(host, (), changed)[0], first[0])


@every_pattern
def test_an_empty_batch_leaves_no_trace(pattern):
    """No sample, or no position: the output passes, and neither scores nor rates become NaN."""
    for shape in ((0, 4, 6, 6), (0, 4), (2, 4, 0, 3)):
        site = DropoutSite(1, 4, pattern, 2, importance="activation", track_area=True)
        site.p.fill_(0.5)
        x = torch.empty(shape, requires_grad=True)
        y = site.hook(nn.Identity(), (), x)
        assert (x if y is None else y).shape == shape
        site.refresh(0.5)
        assert (site.area, site.count) == (1, 0)
        assert (site.importance == 1).all()


# -- scores


@pytest.mark.parametrize("masks", [True, False])
@every_pattern
def test_taylor_scores_are_their_slow_form(pattern, masks):
    """|sum of activation before the mask x gradient behind it|, though an in-place ReLU overwrites the activation."""
    torch.manual_seed(0)
    site = DropoutSite(1, 4, pattern, 2, per_feature=True, importance="taylor", masks=masks)
    site.p.copy_(torch.tensor([0.0, 0.3, 0.6, 0.95]))
    x = torch.randn(32, 4, 3, 3, requires_grad=True)
    before = x.detach().clone()
    output = x * 1
    y = site.hook(nn.Identity(), (), output)
    output.detach().zero_()  # a host may reuse its buffer
    behind = torch.randn(32, 4, 3, 3)
    alive = y.detach() > 0
    nn.functional.relu(y, inplace=True).backward(behind)
    gradient = behind * alive  # what arrives at the site from behind
    expected = [
        sum(abs(sum(before[n, c].double().flatten() * gradient[n, c].double().flatten()).item()) for n in range(2))
        for c in range(4)
    ]
    assert site.totals[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert site.count == 2  # one sample in 16


@pytest.mark.parametrize("kind", ["activation", "lrp", None])
def test_steps_are_observed_always_at_first_then_one_in_eight(kind):
    """Until 32 samples were seen every step counts, then an eighth of the steps; a refresh starts anew.

    That holds for importances and, where another or no importance is asked for, for the share of safe positions.
    """
    torch.manual_seed(0)
    site = DropoutSite(1, 3, "channel", importance=kind, track_area=True)
    for _ in range(2):
        counts = []
        for _ in range(804):
            site.hook(nn.Identity(), (), torch.rand(128, 3, 2, 2))
            counts.append(int(site.count))
        assert counts[:4] == [8, 16, 24, 32]
        scored = (counts[-1] - 32) / 8
        assert abs(scored - 100) < 4 * (800 * 0.125 * 0.875) ** 0.5
        site.refresh(0.0)
        assert site.count == 0


@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_gradients_have_gradients(pattern, per_feature):
    """A penalty on gradients goes through the gate twice: with y = g x, (y^3)' = 3 g^3 x^2 can be derived again."""
    torch.manual_seed(0)
    site = DropoutSite(1, 4, pattern, 2, per_feature=per_feature, importance="taylor")
    site.p.fill_(0.4)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    y = site.hook(nn.Identity(), (), x)
    gate = (y / x).detach()
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    torch.testing.assert_close(second, 36 * gate**6 * x.detach() ** 3)


def test_dropped_features_are_scored():
    """A feature that is always dropped has no gradient, yet its score is that of the gradient behind the mask."""
    site = DropoutSite(1, 3, "channel", importance="taylor")
    site.p.fill_(0.95)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    y = site.hook(nn.Identity(), (), x)
    assert (y == 0).all()
    y.sum().backward()
    assert (x.grad == 0).all()
    torch.testing.assert_close(site.totals[0], x.detach().sum((0, 2, 3)))


@every_pattern
def test_little_is_kept_for_the_backward_pass(pattern):
    """Beside its small gate a site keeps a sixteenth of the activation, for taylor, and one bit a unit at most."""
    site = DropoutSite(1, 8, pattern, 3, importance="taylor")
    site.p.fill_(0.3)
    x = torch.randn(64, 8, 12, 12, requires_grad=True)
    storages = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: storages.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        y = site.hook(nn.Identity(), (), x)
    kept = sum(storages.values()) / (x.numel() * x.element_size())
    gate = {"element": 1 / 32, "spatial": 1 / 8, "own": 1 / 16}.get(
        pattern, 1 / 144
    )  # spatial shares its gate among 8 channels
    assert kept <= 1 / 16 + gate + 1e-3
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


@pytest.mark.parametrize("kind", ["activation", "statistical"])
def test_forward_scores_see_the_activation_before_the_mask(kind):
    """What is scored is what the host returned, dropped or not."""
    torch.manual_seed(0)
    site = DropoutSite(1, 3, "channel", importance=kind)
    site.p.fill_(0.9)
    x = torch.randn(32, 3, 4, 4)
    site.hook(nn.Identity(), (), x)
    expected = scores.FORWARD[kind](x[:2].double())
    torch.testing.assert_close(site.totals.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_overflow_of_the_loss_scaler_is_ignored():
    """A step whose gradients are infinite or NaN leaves the scores finite, and the rates legal."""
    model, engine = make()
    images, labels = batch()
    nn.functional.cross_entropy(model(images), labels).backward()
    before = [site.totals.clone() for site in engine.sites.values()]
    for scale in (1e38, float("nan")):
        (nn.functional.cross_entropy(model(images), labels) * scale * 1e5).backward()
    for totals, site in zip(before, engine.sites.values(), strict=True):
        assert (site.totals >= totals).all()
        assert site.totals.isfinite().all()
    engine.step(epoch=1, epochs=2)
    for site in engine.sites.values():
        assert site.importance.isfinite().all()
        assert ((site.p >= 0) & (site.p <= 0.95)).all()


# -- Drop(p) on updates


def step_with(config, optimizer_class, **options):
    """Parameters before a step, after it, and after the step that no update was dropped from; the draws' seed is 5."""
    model, engine = make(config)
    optimizer = optimizer_class(model.parameters(), **options)
    engine.watch(optimizer)
    train(model, optimizer, 3)  # so that momentum has something to go on with
    nn.functional.cross_entropy(model(batch(seed=9)[0]), batch(seed=9)[1]).backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    twin = make()[0]
    twin.load_state_dict(model.state_dict())
    free = optimizer_class(twin.parameters(), **options)
    free.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        theirs.grad = mine.grad.clone()
    free.step()
    torch.manual_seed(5)
    optimizer.step()
    return before, dict(model.named_parameters()), dict(twin.named_parameters()), engine


@pytest.mark.parametrize("mode", [True, "only"])
def test_dropped_updates_under_sgd_are_the_printed_rule(mode):
    """W <- W - eta Drop(p) dE/dW, one draw per output feature, shared by its weight, bias and norm."""
    config = EngineConfig(drop_updates=mode, allocation="feature", r0=0.6)
    before, after, _, engine = step_with(config, torch.optim.SGD, lr=0.1)
    torch.manual_seed(5)
    for name, site in engine.sites.items():
        noise = torch.rand(site.p.numel())
        layers = [name, name.replace("norm", "conv")] if "norm" in name else [name]
        for key, parameter in after.items():
            if key.rpartition(".")[0] in layers:
                update = 0.1 * equations.dropped_gradient(parameter.grad, noise, site.p)
                torch.testing.assert_close(parameter.detach(), before[key] - update)
    free = before["head.weight"] - 0.1 * after["head.weight"].grad  # no site: no update is dropped
    torch.testing.assert_close(after["head.weight"].detach(), free)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01, "foreach": True}),
        (torch.optim.RMSprop, {"lr": 0.01}),
    ],
)
def test_a_dropped_feature_does_not_move(optimizer, options):
    """Under momentum, weight decay and adaptive steps a feature stays where it was, or moves as it would have."""
    before, after, free, _ = step_with(EngineConfig(drop_updates=True, r0=0.6), optimizer, **options)
    stayed = moved = 0
    for key in ("one.conv.weight", "one.norm.bias", "two.conv.bias", "two.norm.weight"):
        for row, parameter in enumerate(after[key]):
            still = torch.equal(parameter, before[key][row])
            stayed += still
            moved += not still
            if not still:
                torch.testing.assert_close(parameter.detach(), free[key][row].detach(), rtol=1e-5, atol=1e-7)
    assert stayed > 3
    assert moved > 3


def test_updates_alone_leave_the_forward_pass_as_it_is():
    """drop_updates='only' masks no activation, but scores them."""
    model, engine = make(EngineConfig(drop_updates="only", r0=0.9))
    plain = Net()
    plain.load_state_dict(model.state_dict())
    images, labels = batch()
    output = model(images)
    torch.testing.assert_close(output, plain(images))
    nn.functional.cross_entropy(output, labels).backward()
    assert all(site.count > 0 for site in engine.sites.values())


@pytest.mark.parametrize(
    ("layer", "moves"),
    [
        (nn.ConvTranspose2d(4, 4, 3), lambda weight, feature: weight[:, feature]),
        (
            nn.ConvTranspose2d(6, 4, 3, groups=2),
            lambda weight, feature: weight.view(2, 3, 2, 9)[feature // 2, :, feature % 2],
        ),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), lambda weight, feature: weight[feature]),
    ],
)
def test_updates_are_dropped_by_output_feature(layer, moves):
    """Also where a layer's output features are not the rows of its parameters, or its weight is made of others."""
    inputs = layer.in_channels
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(4, inputs, 6, 6, generator=torch.Generator().manual_seed(0))
    with dropopt.attach(model, EngineConfig(drop_updates="only", r0=0.5), example=images) as engine:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        engine.watch(optimizer)
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        (site,) = engine.sites.values()
        site.p.fill_(0.5)
        torch.manual_seed(1)
        noise = torch.rand(4)
        torch.manual_seed(1)
        optimizer.step()
    stayed = [bool((moves(layer.weight, c) == moves(before[0], c)).all()) for c in range(4)]
    assert stayed == (noise < 0.5).tolist()
    assert stayed == (layer.bias == before[1]).tolist()
    assert 0 < sum(stayed) < 4


def test_updates_of_a_blocks_last_layers_are_dropped():
    """What made a residual sum is what the block itself added to it, not what came in, nor a layer further back."""
    block = torchvision.models.resnet.BasicBlock
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), block(6, 6), block(6, 6), nn.Flatten(), nn.LazyLinear(5)
    )
    with dropopt.attach(model, EngineConfig(), example=torch.randn(2, 3, 8, 8)) as engine:
        assert [place.makers for place in engine.places.values()] == [(b.conv2, b.bn2) for b in model[2:4]]


def test_an_optimizer_without_a_droppable_feature_is_refused():
    """drop_updates that would silently drop nothing is an error."""
    model, engine = make(EngineConfig(drop_updates=True))
    with pytest.raises(ConfigError, match=r"^drop_updates finds no layer in the optimizer whose output features"):
        engine.watch(torch.optim.SGD(model.head.parameters(), lr=0.1))


# -- baselines


def library_part(kind, block=3):
    return {
        "dropout": nn.Dropout(0.4),
        "dropout2d": nn.Dropout2d(0.4),
        "dropblock": torchvision.ops.DropBlock2d(0.4, block),
    }[kind]


@pytest.mark.parametrize("kind", ["dropout", "dropout2d", "dropblock"])
def test_a_baseline_is_the_librarys_own_module(kind):
    """At every site a baseline draws what torch's or torchvision's module draws, bit for bit."""
    model, engine = make(Baseline(kind=kind, p=0.4))
    assert list(engine.sites) == ["one.norm", "two.norm"]
    x = torch.randn(4, 6, 6, 6)
    host = nn.Identity().train()
    for site in engine.sites.values():
        torch.manual_seed(1)
        mine = site.hook(host, (), x)
        torch.manual_seed(1)
        assert torch.equal(mine, library_part(kind).train()(x))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, engine=engine)
    assert [row["applied"] for row in engine.rates()] == [0.4, 0.4]


def test_timms_dropblock_is_timms_own():
    """``library: timm`` draws what timm's module draws, bit for bit, for even blocks too, at the scheduled rate."""
    model, engine = make(Baseline(kind="dropblock", library="timm", p=0.4, block_size=4, schedule="linear"))
    engine.step(epoch=2, epochs=4)
    x, part = torch.randn(4, 6, 6, 6), timm.layers.DropBlock2d(0.2, 4).train()
    for site in engine.sites.values():
        torch.manual_seed(1)
        mine = site.hook(nn.Identity().train(), (), x)
        torch.manual_seed(1)
        assert torch.equal(mine, part(x))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, engine=engine)


def test_dropblock_fits_every_map():
    """Where the block would not fit, or torchvision would be left with an even one, the next smaller odd one serves."""
    _, engine = make(Baseline(kind="dropblock", p=0.3, block_size=5))
    site = next(iter(engine.sites.values()))
    host = nn.Identity().train()
    for size, block in ((2, 1), (4, 3), (3, 3), (5, 5), (6, 5)):
        x = torch.ones(4, 2, size, size)
        torch.manual_seed(0)
        mine = site.hook(host, (), x)
        torch.manual_seed(0)
        assert torch.equal(mine, torchvision.ops.drop_block2d(x, 0.3, block))


def test_stochastic_depth_falls_back_to_the_input():
    """Each sample of a residual block's output is the block's input, or input + branch / (1 - p), torchvision's way."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    example = torch.randn(8, 3, 32, 32)
    with dropopt.attach(model, Baseline(kind="stochastic_depth", p=0.5), example=example, sites="block") as engine:
        x, branch = torch.randn(8, 64, 4, 4), torch.randn(8, 64, 4, 4)
        y = engine.sites["layer1.0"].hook(model.layer1[0].train(), (x,), x + branch)
        skipped = (y == x).flatten(1).all(1)
        torch.testing.assert_close(y[~skipped], (x + 2 * branch)[~skipped])
        assert 0 < skipped.sum() < 8
        assert engine.sites["layer2.0"].hook(model.layer2[0].train(), (x,), torch.randn(8, 128, 2, 2)) is None
        model.train()(example).sum().backward()


def test_the_linear_schedule_runs_from_zero_to_p():
    """schedule='linear' drops nothing at the start and p at the end; 'constant' p throughout; 'none' nothing."""
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
