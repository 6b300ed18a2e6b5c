"""Drop(p) on weight updates: the update of a dropped output feature is undone, for any optimizer."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torchvision
from adapted import Adapted
from small_net import Net, batch, make, train
from torch import nn

import dropopt
from dropopt import equations
from dropopt.config import P_MAX, ConfigError, EngineConfig


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def dropping_all():
    """A network and an engine that drops every update at its places."""
    model, engine = make(EngineConfig(drop_updates="only", r0=0.6))
    for site in engine.sites.values():
        site.p.fill_(1.0)
    return model, engine


def unmoved(model, *steps):
    """How many of the 6 and 8 features of the convolutions stay as they were in a step of training."""
    weights = [model.one.conv.weight, model.two.conv.weight]
    before = [weight.detach().clone() for weight in weights]
    nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
    for step in steps:
        step()
    return [int((weight == old).flatten(1).all(1).sum()) for weight, old in zip(weights, before, strict=True)]


def step_with(config, optimizer_class, **options):
    """Return the parameters before a step, after it, and after the same step without Drop(p); masks use seed 5."""
    model, engine = make(config)
    optimizer = optimizer_class(model.parameters(), **options)
    engine.watch(optimizer)
    train(model, optimizer, 3)  # so that momentum has a history
    for site in engine.sites.values():
        if config.allocation != "uniform":
            site.p.copy_(torch.linspace(0, P_MAX, len(site.p)))
    nn.functional.cross_entropy(model(batch(seed=9)[0]), batch(seed=9)[1]).backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    twin, free = copy.deepcopy((model, optimizer))  # a copied optimizer has no hooks
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
    free = before["head.weight"] - 0.1 * after["head.weight"].grad  # no site here, so no update is dropped
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
    """With momentum, weight decay or adaptive steps, a feature stays as it was or moves as without Drop(p)."""
    before, after, free, _ = step_with(EngineConfig(drop_updates=True, r0=0.6), optimizer, **options)
    stayed = []
    for key in ("one.conv.weight", "one.norm.bias", "two.conv.bias", "two.norm.weight"):
        for row, parameter in enumerate(after[key]):
            stayed.append(torch.equal(parameter, before[key][row]))
            if not stayed[-1]:
                torch.testing.assert_close(parameter.detach(), free[key][row].detach(), rtol=1e-5, atol=1e-7)
    assert 3 < sum(stayed) < len(stayed) - 3


def test_only_updates_leaves_the_forward_pass_unchanged():
    """drop_updates='only' does not mask activations, but scores them, even if no member's rate depends on them."""
    model, engine = make(EngineConfig(drop_updates="only", r0=0.9, w_structured=0, w_pfid=0))
    engine.watch(sgd(model))
    plain = Net()
    plain.load_state_dict(model.state_dict())
    images, labels = batch()
    output = model(images)
    torch.testing.assert_close(output, plain(images))
    nn.functional.cross_entropy(output, labels).backward()
    engine.step(epoch=1, epochs=2)
    assert all(importance.std() > 0 for importance in engine.importances().values())


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
    """This includes layers whose output features are not the rows of their parameters, and parametrised weights."""
    inputs = layer.in_channels
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(4, inputs, 6, 6, generator=torch.Generator().manual_seed(0))
    with dropopt.attach(model, EngineConfig(drop_updates="only", r0=0.5), example=images, complexity=0.5) as engine:
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


@pytest.mark.parametrize("width", [4, 1])
def test_parameters_with_other_features_move_freely(width):
    """A parameter of a masked layer that is not one number per output feature, such as a common gain, is not masked."""

    class Scaled(nn.Conv2d):
        def __init__(self):
            super().__init__(3, width, 1)
            self.gain, self.offsets = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(3))
            self.part = nn.PReLU(width)  # a layer of its own, which only lies in this one

        def forward(self, x):
            return self.gain * self.part(super().forward(x + self.offsets.view(-1, 1, 1)) - 1)

    model = nn.Sequential(Scaled(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    nn.init.constant_(model[0].weight, -1.0)
    nn.init.constant_(model[0].part.weight, -1.0)
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with dropopt.attach(model, EngineConfig(drop_updates="only"), example=images, complexity=0.5) as engine:
        optimizer = sgd(model)
        engine.watch(optimizer)
        for site in engine.sites.values():
            site.p.fill_(0.999)
        before = {name: parameter.detach().clone() for name, parameter in model[0].named_parameters()}
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    moved = {name: not torch.equal(parameter, before[name]) for name, parameter in model[0].named_parameters()}
    assert moved == {"weight": False, "bias": False, "gain": True, "offsets": True, "part.weight": True}


def test_the_updates_of_a_blocks_last_layers_are_dropped():
    """The makers of a residual sum are the last layers of the block, not its input or earlier layers."""
    block = torchvision.models.resnet.BasicBlock
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), block(6, 6), block(6, 6), nn.Flatten(), nn.LazyLinear(5)
    )
    with dropopt.attach(model, EngineConfig(), example=torch.randn(2, 3, 8, 8), complexity=0.5) as engine:
        assert [place.makers for place in engine.places.values()] == [(b.conv2, b.bn2) for b in model[2:4]]


def test_an_optimizer_without_a_droppable_feature_is_refused():
    """drop_updates without any effect is an error."""
    model, engine = make(EngineConfig(drop_updates=True))
    message = (
        "^drop_updates finds no layer in the optimizer whose output features a site drops; "
        r"choose other sites \(such as 'norm' or 'conv'\), or set drop_updates to false$"
    )
    with pytest.raises(ConfigError, match=message):
        engine.watch(sgd(model.head))


class Wrapper(torch.optim.Optimizer):
    """An optimizer as Accelerate prepares it: one without hooks, that steps another."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        """Those of the other optimizer."""
        return self.optimizer.param_groups

    def step(self):
        """A step of the other optimizer."""
        self.optimizer.step()


def test_an_optimizer_in_a_wrapper_is_watched():
    """Its updates are dropped once, however often both are watched. A list of optimizers is refused in a line."""
    model, engine = dropping_all()
    optimizer = sgd(model)
    wrapper = Wrapper(Wrapper(optimizer))
    for one in (wrapper, optimizer, wrapper):
        engine.watch(one)
    assert unmoved(model, wrapper.step) == [6, 8]
    assert len(optimizer._optimizer_step_post_hooks) == 1
    message = (
        r"^watch\(\) takes a torch\.optim\.Optimizer, got builtins\.list: call it for each one, and of a wrapper for "
    )
    message += "the one inside; without one, set drop_updates to false$"
    with pytest.raises(ConfigError, match=message):
        engine.watch([optimizer])


def test_every_watched_optimizer_drops_updates():
    """Networks with one optimizer for each part, and a new optimizer in the middle of training; all until detach()."""
    model, engine = dropping_all()
    optimizers = [sgd(model.one), sgd(model.two)]
    for optimizer in optimizers:
        engine.watch(optimizer)
    assert unmoved(model, *(optimizer.step for optimizer in optimizers)) == [6, 8]
    for _ in range(2):
        engine.detach()
        engine.watch(optimizers[0])  # has no effect after detach()
        assert unmoved(model, *(optimizer.step for optimizer in optimizers)) == [0, 0]


def test_layers_that_are_unfrozen_later_drop_updates():
    """Gradual unfreezing adds parameters to an optimizer that is watched already."""
    model, engine = dropping_all()
    optimizer = sgd(model.two)
    engine.watch(optimizer)
    optimizer.add_param_group({"params": list(model.one.parameters()), "lr": 0.01})
    assert unmoved(model, optimizer.step) == [6, 8]


class Sharpness(torch.optim.Optimizer):
    """An optimizer as SAM is often written: it steps another, and its own step() is not called."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.base_optimizer = optimizer

    def second_step(self):
        """A step of the other optimizer."""
        self.base_optimizer.step()


def test_updates_of_adapted_layers_are_refused():
    """A feature of a low-rank update has no parameters of its own; adapted layers that are not trained are left."""
    model = Net()
    model.two.conv = Adapted(model.two.conv)
    config = EngineConfig(drop_updates=True)
    for trained, frozen, refused in (
        (model.parameters(), False, True),
        (model.one.parameters(), False, False),
        (model.parameters(), True, False),
    ):
        model.two.conv.requires_grad_(not frozen)
        with dropopt.attach(model, config, example=batch()[0], complexity=0.5) as engine:
            message = r"^drop_updates cannot mask the low-rank updates of layers that peft adapts, .* to false$"
            with pytest.raises(ConfigError, match=message) if refused else nullcontext():
                engine.watch(torch.optim.SGD(trained, lr=0.1))


def test_a_watched_optimizer_that_makes_no_step_is_reported():
    """Nothing is dropped, and step() says so after an epoch; what the warning says to type helps."""
    message = r"^drop_updates dropped nothing for an epoch, .* watch the inner one, such as optimizer\.base_optimizer$"
    for inner in (False, True):
        model, engine = make(EngineConfig(drop_updates="only", r0=0.6))
        optimizer = Sharpness(sgd(model))
        engine.watch(optimizer.base_optimizer if inner else optimizer)
        engine.step(epoch=0, epochs=2)
        model(batch()[0])
        engine.step(epoch=0.5, epochs=2)  # within an epoch, gradients may accumulate
        for site in engine.sites.values():
            site.p.fill_(1.0)
        assert unmoved(model, optimizer.second_step) == ([6, 8] if inner else [0, 0])
        with nullcontext() if inner else pytest.warns(UserWarning, match=message):
            engine.step(epoch=1, epochs=2)


def test_a_copy_of_an_engine_asks_for_its_optimizer():
    """A copied or pickled optimizer has no hooks: step() says so, and watch() brings them back."""
    model, engine = dropping_all()
    optimizer = sgd(model)
    engine.watch(optimizer)
    whole = (model, engine, optimizer)
    for model, other, optimizer in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        with pytest.raises(ValueError, match=r"call engine\.watch"):
            other.step(epoch=1, epochs=2)
        other.watch(optimizer)
        assert unmoved(model, optimizer.step) == [6, 8]
    engine.step(epoch=1, epochs=2)  # the original still has its optimizer
