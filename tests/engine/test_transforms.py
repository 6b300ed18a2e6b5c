"""Tools that trace or transform a model with an attached engine work as with nn.Dropout2d, or say what to do."""

import copy
import pickle

import pytest
import torch
import torchvision
from networks import Network
from small_net import batch, every_config, every_pattern, make, site_of
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torchvision.models.feature_extraction import create_feature_extractor

import dropopt
from dropopt.config import ConfigError, EngineConfig

COMPLEX = "^module Identity with dropout returned complex numbers, which have no dropout in PyTorch either"


# -- torch.func


@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_a_functional_gradient_goes_through_the_mask(pattern, per_feature):
    """torch.func.grad gives 2 gate^2 x for (gate x)^2, at the site's rate."""
    site, x = site_of(pattern, per_feature=per_feature), torch.rand(200, 4, 6, 6) + 0.5
    torch.manual_seed(0)
    gradient = grad(lambda x: site.hook(nn.Identity(), (), x).square().sum())(x)
    gate = (gradient / (2 * x)).sqrt()
    assert (gate == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert gate.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, about a batching rule
@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_samples_of_vmap_share_masks_as_requested(pattern, per_feature):
    """vmap draws one mask per sample, or one for all, on which a pattern that looks at the samples still depends."""
    torch.manual_seed(0)
    site, x = site_of(pattern, per_feature=per_feature), torch.rand(200, 4, 6, 6) + 0.5

    def dropped(randomness, x):
        return vmap(lambda x: site.hook(nn.Identity(), (), x[None])[0], randomness=randomness)(x) == 0

    found = dropped("different", x)
    assert found.float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert len(found[:20].flatten(1).unique(dim=0)) > 5
    same = x[:1].expand_as(x) if pattern in ("spatial", "own") else x
    found = torch.stack([dropped("same", same[:3]) for _ in range(100)])
    assert (found == found[:, :1]).all()
    assert found[:, 0].float().mean().item() == pytest.approx(0.4, abs=0.1)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        dropped("error", x)


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
    with pytest.warns(UserWarning, match=r"^torch\.func and forward-mode derivatives hide activations"):
        grad(loss)(parameters)
    assert all(site.count == 0 for site in engine.sites.values())
    loss(dict(model.named_parameters())).backward()
    assert all(site.count > 0 for site in engine.sites.values())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's, about its own derivatives
@every_pattern
def test_a_derivative_goes_forward_through_the_mask(pattern):
    """In forward mode, the tangent of gate x is the gate times that of x."""
    site, x = site_of(pattern, importance="taylor"), (torch.rand(50, 4, 6, 6) + 0.5).requires_grad_()
    with forward_ad.dual_level(), pytest.warns(UserWarning, match="importance is not scored"):
        value, tangent = forward_ad.unpack_dual(
            site.hook(nn.Identity(), (), forward_ad.make_dual(x, torch.ones_like(x)))
        )
    torch.testing.assert_close(tangent, value / x)
    assert (tangent == 0).float().mean().item() == pytest.approx(0.4, abs=0.1)


# -- torch.export and torch.compile


@pytest.mark.parametrize("pattern", ["channel", "structured", "spatial", "own"])
def test_an_export_in_training_mode_takes_any_batch(pattern):
    """As with nn.Dropout2d, the batch size may stay open; the program drops at the rates of the export."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    config = EngineConfig(r0=0.4, pattern=pattern, w_spatial=0.2, importance="activation")
    engine = dropopt.attach(model, config, example=torch.rand(2, 1, 6, 6), complexity=0.5, sites=("0",))
    model[0].bias.data.fill_(9.0)
    exported = torch.export.export(
        model[:2].train(), (torch.rand(4, 1, 6, 6),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)
    ).module()
    for samples in (7, 2000):
        dropped = exported(torch.rand(samples, 1, 6, 6)) == 0
    assert dropped.float().mean().item() == pytest.approx(engine.rates()[0]["applied"], abs=0.04)
    assert engine.sites["0"].count == 0


def test_one_graph_serves_every_batch_size():
    """torch.compile(dynamic=True) compiles once for all batches above 16 samples."""
    model, _ = make(EngineConfig(r0=0.5, pattern="spatial", allocation="feature", w_spatial=0.3, sites="one.norm"))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for samples in (40, 70, 33):
            assert len(compiled(batch(samples)[0])) == samples


# -- numbers


def test_another_default_type():
    """A network in double precision, the default type, is masked in double precision at the same rates."""
    found = []
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            model, engine = make(EngineConfig(r0=0.5))
            logits = model(batch()[0].to(dtype))
            logits.sum().backward()
            engine.step(epoch=1, epochs=2)
        finally:
            torch.set_default_dtype(torch.float32)
        assert logits.dtype == dtype
        found.append([row[member] for row in engine.rates() for member in ("adaptive", "contextual")])
    assert found[0] == pytest.approx(found[1])


@every_config
def test_complex_numbers_are_refused(config):
    """nn.Dropout2d refuses them as well; the error names the module."""
    _, engine = make(config)
    for site in engine.sites.values():
        with pytest.raises(ConfigError, match=f"{COMPLEX}: choose other sites$"):
            site.hook(nn.Identity(), (), torch.ones(2, 6, 4, 4, dtype=torch.complex64))
    with pytest.raises(NotImplementedError):
        nn.Dropout2d(0.5)(torch.ones(2, 6, 4, 4, dtype=torch.complex64))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@every_config
def test_quantized_numbers_are_refused(config):
    """A conversion copies the hooks to layers in training mode; the error says what to call."""
    _, engine = make(config)
    quantized = torch.quantize_per_tensor(torch.ones(2, 6, 4, 4), 0.1, 0, torch.quint8)
    message = r"^module Identity .* quantized tensor in training mode: call engine\.detach\(\) before the conversion"
    for site in engine.sites.values():
        with pytest.raises(ConfigError, match=message):
            site.hook(nn.Identity(), (), quantized)
        assert site.hook(nn.Identity().eval(), (), quantized) is None


# -- samples without a batch, and nn.DataParallel


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:torch.func and forward-mode")  # under vmap
@every_config
def test_samples_without_a_batch_are_refused(config):
    """A convolution takes them, also under vmap; what would be dropped is rows of the map, not features."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(-3), nn.LazyLinear(3))
    dropopt.attach(model, config, example=batch()[0], complexity=0.5, sites="conv")
    message = (
        r"^module Conv2d with dropout returned one sample, \(4, 4, 4\), but batches need 4 dimensions: "
        r"give batches, such as x\.unsqueeze\(0\)$"
    )
    images = batch()[0]
    for call in (lambda: model(images[0]), lambda: vmap(model, randomness="different")(images)):
        with pytest.raises(ConfigError, match=message):
            call()
    one_by_one = vmap(lambda image: model(image.unsqueeze(0))[0], randomness="different")
    assert one_by_one(images).shape == model.eval()(images).shape == (16, 3)
    torch.testing.assert_close(model(images[0]), model(images)[0])


@every_config
def test_features_on_the_last_dimension_may_have_any_number_of_others(config):
    """A linear layer for words of sentences takes single words as well: each row is a sample."""
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    dropopt.attach(model, config, example=torch.randn(2, 5, 3), complexity=0.5, sites="norm")
    assert model(torch.randn(10, 3)).shape == (10, 2)


def test_data_parallel_is_refused_on_several_gpus():
    """Its threads would move the state of the sites from one GPU to another while others use it."""
    model, engine = make(EngineConfig(r0=0.5))
    replica = model.one.norm._replicate_for_data_parallel()
    message = "^torch.nn.DataParallel runs copies .* threads.*: use DistributedDataParallel, or one GPU$"
    with pytest.raises(ConfigError, match=message):
        engine.sites["one.norm"].hook(replica, (), torch.randn(2, 6, 4, 4))
    assert nn.DataParallel(model)(batch()[0]).shape == (16, 3)  # on one device it runs the model itself


# -- TorchScript and torch.fx


@pytest.mark.filterwarnings("ignore")
def test_tracing_in_training_mode_is_refused():
    """A trace would keep today's rates as constants; in eval mode there is nothing to keep."""
    model, _ = make(EngineConfig(r0=0.5))
    message = (
        r"^torch\.jit\.trace would record the current drop rates as constants: call model\.eval\(\) or "
        r"engine\.detach\(\) before tracing$"
    )
    with pytest.raises(ConfigError, match=message):
        torch.jit.trace(model, batch()[0])
    model.eval()
    assert torch.equal(torch.jit.trace(model, batch()[0])(batch(4)[0]), model(batch(4)[0]))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@every_config
def test_scripting_is_refused_until_the_engine_is_detached(config):
    """The error says what to type, and a detached model can be scripted. The same holds for copies and pickles."""
    model, engine = make(config)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    message = r"^torch\.jit\.script cannot compile attached dropout: call engine\.detach\(\) before scripting$"
    for attached in (model, twin, nn.Sequential(model)):
        with pytest.raises(ConfigError, match=message):
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
    message = (
        r"^torch\.fx cannot trace dropout after a BasicBlock in training mode: call engine\.detach\(\) before tracing, "
        "or attach with sites='conv', whose layers torch.fx does not trace into$"
    )
    with pytest.raises(ConfigError, match=message):
        create_feature_extractor(model, ["layer4"])
    torch.fx.symbolic_trace(model.eval())
    engine.detach()
    dropopt.attach(model, config, example=images, complexity=0.5, sites="conv")
    features = create_feature_extractor(model, ["layer1.0.conv1"]).train()(images)["layer1.0.conv1"]
    assert (features == 0).flatten(2).all(-1).any()


@every_config
def test_another_output_in_training_mode_is_refused(config):
    """A module that returns several tensors in training mode only is refused in the first training pass."""
    layer = Network(lambda self, x: (self.conv(x),) * 2 if self.training else self.conv(x), conv=nn.Conv2d(1, 4, 3))
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    dropopt.attach(model, config, example=batch()[0], complexity=0.5, sites="0")
    message = (
        "^module Network with dropout returned tuple in training mode, but a tensor in eval mode: choose other sites$"
    )
    with pytest.raises(ConfigError, match=message):
        model.train()(batch()[0])
