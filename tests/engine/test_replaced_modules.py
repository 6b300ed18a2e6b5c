"""Code that replaces a module with a site removes its dropout: the engine notices, or follows the hook."""

from dataclasses import replace

import pytest
import torch
from adapted import Adapted
from small_net import Net, batch, every_config, train
from torch import nn

import dropopt
from dropopt.config import ConfigError, EngineConfig
from dropopt.engine.site import DropoutSite


def attached(config, model=None):
    model = (model or Net()).train()
    return model, dropopt.attach(model, config, example=batch()[0], complexity=0.5)


def sync(model):
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def other_norm(model):
    model.two.norm = nn.BatchNorm2d(8)


def other_block(model):
    model.two = nn.Sequential(nn.Conv2d(6, 8, 3))


def no_hooks(model):
    model.two.norm._forward_hooks.clear()


@every_config
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (sync, r"module 'one.norm' \(BatchNorm2d\) was replaced by a new SyncBatchNorm"),
        (other_norm, r"module 'two.norm' \(BatchNorm2d\) was replaced by a new BatchNorm2d"),
        (other_block, r"module 'two.norm' \(BatchNorm2d\) was removed"),
        (no_hooks, r"the forward hooks of module 'two.norm' \(BatchNorm2d\) were removed"),
    ],
)
def test_lost_dropout_is_an_error(config, change, fault):
    """Every call during training names the module and says what to do, instead of reporting a rate."""
    model, engine = attached(config)
    change(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    message = (
        rf"^{fault} after attaching, so its dropout is gone: change the model first, "
        r"then call dropopt\.attach\(model, \.\.\.\)$"
    )
    for call in (
        engine.rates,
        lambda: engine.step(epoch=1, epochs=4, val_loss=1.0),
        lambda: engine.watch(optimizer),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    engine.detach()
    engine.rates()  # a detached engine reports its last rates


@pytest.mark.parametrize("allocation", ["uniform", "feature"])
def test_another_number_of_features_is_an_error(allocation):
    """Libraries that prune channels make the weights of a layer smaller."""
    model, _ = attached(EngineConfig(allocation=allocation), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 4)))
    model[0].weight, model[0].bias = nn.Parameter(torch.zeros(3, 1, 3, 3)), None
    message = (
        r"^module Conv2d with dropout returned 3 features, but had 4 when the engine was attached: "
        r"change the model first, then attach$"
    )
    with pytest.raises(ConfigError, match=message):
        model(batch()[0])
    site = DropoutSite(1, 4, "channel")  # with one rate and no importance, a network may change its width
    site.p.fill_(0.5)
    dropped = site.hook(nn.Identity(), (), torch.ones(200, 3, 2, 2))[:, :, 0, 0] == 0
    assert dropped.float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.15)


@every_config
def test_dropout_inside_an_adapted_layer_is_an_error(config):
    """peft adds its update to the output of the layer, after the dropout: no feature would be dropped."""
    model = Net().train()
    engine = dropopt.attach(model, config, example=batch()[0], complexity=0.5, sites="conv")
    model.two.conv = Adapted(model.two.conv)
    with pytest.raises(ConfigError, match=r"^module 'two\.conv' \(Conv2d\) was replaced by a new Adapted after attach"):
        engine.rates()
    engine.detach()
    assert not any(module._forward_hooks for module in model.modules())
    dropopt.attach(model, config, example=batch()[0], complexity=0.5, sites="conv")
    assert (model.two.conv(torch.randn(64, 6, 6, 6)) == 0).flatten(2).all(-1).any()


@every_config
def test_attaching_after_the_change_works(config):
    """A converted model takes an engine as any other."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
    _, engine = attached(config, model)
    engine.step(epoch=1, epochs=4, val_loss=1.0)
    assert [row["site"] for row in engine.rates()] == ["one.norm", "two.norm"]


@every_config
def test_a_wrapped_module_keeps_its_site(config):
    """A module that moves into a wrapper, which forwards its calls, still drops."""
    model, engine = attached(config)
    model.two.norm = nn.Sequential(model.two.norm)
    engine.step(epoch=1, epochs=4, val_loss=1.0)
    engine.detach()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.ao announces its successor
def test_a_hook_that_moves_with_its_module_is_followed():
    """torch's fusion for quantization-aware training copies hooks to the fused module: it drops, until detach()."""
    fuse = pytest.importorskip("torch.ao.quantization").fuse_modules_qat
    config = EngineConfig(r0=0.5, importance="gradient", w_contextual=0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)).train()
    images, labels = batch()
    engine = dropopt.attach(model, config, example=images, complexity=0.5, sites="1")
    fuse(model, [["0", "1"]], inplace=True)
    before = engine.places["1"]
    engine.probe(images, labels)
    assert engine.sites["1"].refreshes == 1
    place = engine.places["1"]
    assert place == replace(before, module=model[0], weighted=(before.weighted[0], model[0]), makers=place.weighted)
    assert before.weighted == before.makers
    assert engine.rates()[0]["site"] == "1"
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert (model[0](images) == 0).flatten(2).all(-1).any()
    engine.detach()
    assert not any(module._forward_hooks for module in model.modules())
