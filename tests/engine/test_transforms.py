"""Tools that trace or transform a model with an attached engine work as with nn.Dropout2d, or say what to do."""

import copy
import pickle

import pytest
import torch
import torchvision
from small_net import batch, make
from torch import nn
from torch.func import functional_call, grad, vmap
from torchvision.models.feature_extraction import create_feature_extractor

import dropopt
from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine.site import DropoutSite

PATTERNS = ("element", "channel", "structured", "spatial", "own")
CONFIGS = (EngineConfig(r0=0.5), Baseline(kind="dropout2d"))
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["engine", "baseline"])


# -- torch.func


def make_site(pattern, per_feature, importance=None):
    site = DropoutSite(1, 4, pattern, 2, per_feature=per_feature or pattern == "own", importance=importance)
    site.p.fill_(0.4)
    if pattern == "own":
        site.set_mixture(torch.full((5,), 0.2), torch.full((5, 4), 0.4))
    return site


@pytest.mark.parametrize("per_feature", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_functional_gradient_goes_through_the_mask(pattern, per_feature):
    """torch.func.grad gives 2 gate^2 x for (gate x)^2, at the site's rate."""
    site, x = make_site(pattern, per_feature), torch.rand(200, 4, 6, 6) + 0.5
    torch.manual_seed(0)
    gradient = grad(lambda x: site.hook(nn.Identity(), (), x).square().sum())(x)
    gate = (gradient / (2 * x)).sqrt()
    assert (gate == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert gate.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, about a batching rule
@pytest.mark.parametrize("pattern", PATTERNS)
def test_samples_of_vmap_have_masks_of_their_own(pattern):
    """With randomness="different", as for per-sample gradients, vmap draws one mask per sample."""
    site, x = make_site(pattern, per_feature=False), torch.rand(200, 4, 6, 6) + 0.5
    y = vmap(lambda x: site.hook(nn.Identity(), (), x[None])[0], randomness="different")(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert not torch.equal(y[0] == 0, y[1] == 0) or not torch.equal(y[1] == 0, y[2] == 0)


def test_functional_gradients_do_not_score():
    """Inside a transform, scores are not updated and a warning says so; a step outside of it updates them."""
    model, engine = make(EngineConfig(r0=0.5))
    images, labels = batch()
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters):
        return nn.functional.cross_entropy(functional_call(model, parameters, (images,)), labels)

    model.one.norm.track_running_stats = model.two.norm.track_running_stats = False  # torch.func refuses updates
    for norm in (model.one.norm, model.two.norm):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    with pytest.warns(UserWarning, match=r"^torch\.func transforms hide activations: their importance is not scored"):
        grad(loss)(parameters)
    assert all(site.count == 0 for site in engine.sites.values())
    loss(dict(model.named_parameters())).backward()
    assert all(site.count > 0 for site in engine.sites.values())


# -- TorchScript and torch.fx


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@every_config
def test_scripting_is_refused_until_the_engine_is_detached(config):
    """The error says what to type, and a detached model can be scripted. The same holds for copies and pickles."""
    model, engine = make(config)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for attached in (model, twin, nn.Sequential(model)):
        with pytest.raises(
            ConfigError, match=r"^torch\.jit\.script cannot compile attached dropout: call engine\.detach"
        ):
            torch.jit.script(attached)
    engine.detach()
    model.head = nn.Linear(8, 3)
    model.checkpointing = 0
    torch.jit.script(model.one)
    assert "__prepare_scriptable__" not in vars(model.one.norm)


@every_config
def test_a_feature_extractor_of_blocks_is_refused_in_training_mode(config):
    """torch.fx traces into blocks: the error says what to type, and following it works."""
    model, images = torchvision.models.resnet18(num_classes=3), torch.randn(2, 3, 32, 32)
    engine = dropopt.attach(model, config, example=images, complexity=0.5)
    with pytest.raises(
        ConfigError, match=r"^torch\.fx cannot trace dropout after a BasicBlock in training mode: call "
    ):
        create_feature_extractor(model, ["layer4"])
    torch.fx.symbolic_trace(model.eval())
    engine.detach()
    dropopt.attach(model, config, example=images, complexity=0.5, sites="conv")
    features = create_feature_extractor(model, ["layer1.0.conv1"]).train()(images)["layer1.0.conv1"]
    assert (features == 0).flatten(2).all(-1).any()


@every_config
def test_another_output_in_training_mode_is_refused(config):
    """A module that returns several tensors in training mode only is refused in the first training pass."""

    class Auxiliary(nn.Conv2d):
        def forward(self, x):
            y = super().forward(x)
            return (y, y) if self.training else y

    model = nn.Sequential(Auxiliary(1, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    dropopt.attach(model, config, example=batch()[0], complexity=0.5)
    with pytest.raises(ConfigError, match=r"^module Auxiliary with dropout returned tuple in training mode"):
        model.train()(batch()[0])
