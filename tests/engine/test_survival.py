"""An attached engine works with copies, files, compilation, precision, checkpointing and distributed training."""

import copy
from typing import get_args

import pytest
import torch
from small_net import Net, batch, equal, every_pattern, gradients, make, site_of, sites_of, train
from torch import nn

import dropopt
from dropopt.config import Baseline, EngineConfig, Pattern
from dropopt.engine.site import DropoutSite

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


# -- copies and files


def test_a_deep_copy_has_sites_of_its_own():
    """Training a copy changes neither rates nor scores of the original, and vice versa."""
    model, engine = make()
    twin = copy.deepcopy(model)
    assert len(sites_of(twin)) == len(engine.sites) == 2
    for mine, theirs in zip(sites_of(model), sites_of(twin), strict=True):
        assert isinstance(theirs, DropoutSite)
        assert mine is not theirs
        assert mine.p.data_ptr() != theirs.p.data_ptr()
    gradients(twin)
    assert all(site.count == 0 for site in sites_of(model))
    before = [site.p.clone() for site in sites_of(twin)]
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, engine=engine)
    assert equal(before, [site.p for site in sites_of(twin)])
    engine.detach()
    assert not sites_of(model)
    assert len(sites_of(twin)) == 2


def test_an_average_of_weights_drops_nothing():
    """torch's EMA copies and updates an attached model; in eval mode, the average drops nothing."""
    model, _ = make()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for _ in range(2):
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        average.update_parameters(model)
    average.eval()
    assert torch.equal(average(batch()[0]), average(batch()[0]))
    assert average.module.state_dict().keys() == Net().state_dict().keys()


@pytest.mark.filterwarnings("ignore")  # torch's, about its deprecated quantization
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("config", [EngineConfig(r0=0.9), Baseline(kind="dropout", p=0.9)])
def test_a_quantized_model_drops_nothing(config, inplace):
    """torch makes the quantized layers in training mode and gives them the hooks, also of a model in eval mode."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))
    images = torch.randn(4, 3, 8, 8)
    engine = dropopt.attach(model, config, example=images, complexity=0.5, sites="linear")
    model.train()(images)
    if inplace:  # a copy needs no step after training
        engine.step(epoch=1, epochs=2)
    model.eval()
    expected = model(images)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=inplace)
    assert quantized[1].training
    assert len(quantized[1]._forward_hooks) == 1
    torch.testing.assert_close(quantized(images), expected, atol=0.1, rtol=0)
    assert torch.equal(quantized(images), quantized(images))
    if not inplace:
        assert not torch.equal(model.train()(images), model(images))
    engine.detach()


def test_a_whole_model_is_saved_and_loaded_with_its_sites(tmp_path):
    """torch.save of the model keeps its current rates; its state dict is the plain network's, key by key."""
    model, engine = make()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, engine=engine)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert equal(gradients(model), gradients(loaded))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    plain = Net()
    plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    model.load_state_dict(plain.state_dict())


def test_training_resumes_bit_for_bit(tmp_path):
    """A fresh engine, model and optimizer that load a checkpoint end with equal weights."""
    for config in (
        EngineConfig(allocation="feature"),
        EngineConfig(pattern="spatial", w_spatial=0.5, efficacy="adaptive"),
        EngineConfig(pattern="element", importance="statistical", drop_updates=True),
        EngineConfig(pattern="own", w_spatial=0.2, efficacy="adaptive"),
        Baseline(kind="dropout", p=0.3, schedule="linear"),
    ):

        def fresh(seed, config=config):
            model, engine = make(config, seed=seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            engine.watch(optimizer)
            return model, optimizer, engine  # the engine comes last: its state sets the random state

        def epochs(parts, first, last):
            model, optimizer, engine = parts
            for epoch in range(first, last):
                train(model, optimizer, 3, seed=10 * epoch)
                engine.step(epoch=epoch + 1, epochs=4, val_loss=1.0 / (epoch + 1), train_loss=0.3, val_accuracy=0.6)

        parts, resumed = fresh(seed=0), fresh(seed=99)
        epochs(parts, 0, 2)
        torch.save([part.state_dict() for part in parts], tmp_path / "checkpoint.pt")
        epochs(parts, 2, 4)
        for part, state in zip(resumed, torch.load(tmp_path / "checkpoint.pt"), strict=True):
            part.load_state_dict(state)
        epochs(resumed, 2, 4)
        assert equal(parts[0].state_dict().values(), resumed[0].state_dict().values())
        assert parts[-1].rates() == resumed[-1].rates()


# -- compilation and export


@pytest.mark.parametrize("pattern", ["element", "channel", "spatial", "own"])
def test_one_graph_serves_every_rate(pattern):
    """torch.compile(fullgraph=True) captures the network with its sites, and rates change without recompiling."""
    model, engine = make(EngineConfig(pattern=pattern, allocation="feature", w_spatial=0.2, sites="one.norm"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images, labels = batch()
    seen = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch in range(3):
            nn.functional.cross_entropy(compiled(images), labels).backward()
            engine.step(epoch=epoch + 1, epochs=3, val_loss=2.0 - epoch, train_loss=0.5, val_accuracy=0.2 + epoch / 4)
            seen.append(tuple(row["applied"] for row in engine.rates()))
    assert len(set(seen)) == 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert all(site.refreshes == 3 for site in engine.sites.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_drops_at_the_same_rates():
    """Code generated by inductor keeps the rates, the expectation and the scores."""
    torch._dynamo.reset()
    site = DropoutSite(1, 4, "element", per_feature=True, importance="taylor")
    host = nn.Identity().train()
    host.register_forward_hook(site.hook)
    compiled = torch.compile(host, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rates in ((0.1, 0.3, 0.7, 0.0), (0.5, 0.0, 0.95, 0.2)):
            site.p.copy_(torch.tensor(rates))
            y = compiled(torch.ones(200, 4, 20, 20, requires_grad=True))
            y.sum().backward()
            share = (y == 0).double().mean((0, 2, 3))
            error = (site.p * (1 - site.p) / 80_000).sqrt()
            assert ((share - site.p).abs() <= 4 * error).all()
            assert ((y == 0) | ((y * (1 - site.p.view(-1, 1, 1)) - 1).abs() < 1e-6)).all()
    assert site.count == 26
    torch.testing.assert_close(site.totals[0], torch.full((4,), 26 * 400.0))


def test_compiled_training_equals_eager_training(monkeypatch):
    """With the same seed, the compiled graph gives the gradients and scores of its code run eagerly."""
    model, engine = make()
    torch._dynamo.reset()
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        eager = gradients(model)
    totals = [site.totals.clone() for site in engine.sites.values()]
    for site in engine.sites.values():
        site.totals.zero_()
    found = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close([site.totals for site in engine.sites.values()], totals, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_sites_vanish_from_an_export():
    """The program of the model in eval mode is the same with the engine attached as without, and becomes ONNX."""
    model, engine = make()
    attached = torch.export.export(model.eval(), (batch()[0],))
    engine.detach()
    assert str(attached.graph) == str(torch.export.export(model, (batch()[0],)).graph)
    kinds = [node.op_type for node in torch.onnx.export(attached, dynamo=True, verbose=False).model.graph]
    assert "Conv" in kinds
    assert not any("Random" in kind or "Dropout" in kind for kind in kinds)


@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_a_fake_pass_leaves_nothing_behind(pattern, per_feature):
    """Nothing that was computed for fake tensors, which memory estimators use, is cached for real ones."""
    site, images = DropoutSite(1, 4, pattern, 3, per_feature=per_feature), torch.ones(2, 4, 17, 19)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        site.hook(nn.Identity(), (), torch.ones(2, 4, 17, 19))
    assert torch.equal(site.hook(nn.Identity(), (), images), images)


# -- precision, layout, checkpointing


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_pattern
def test_autocast_trains(pattern, dtype, device):
    """Under autocast outputs keep their half precision, gradients are finite, scores are collected in float32."""
    model, engine = make(EngineConfig(pattern=pattern, allocation="feature", w_spatial=0.25))
    model.to(device)
    kinds = []
    model.two.conv.register_forward_hook(lambda m, a, y: kinds.append(y.dtype))
    model.two.norm.register_forward_hook(lambda m, a, y: kinds.append(y.dtype))
    assert all(gradient.isfinite().all() for gradient in gradients(model, dtype=dtype, device=device))
    assert kinds == [dtype, dtype]
    for site in engine.sites.values():
        assert site.totals.dtype == torch.float32
        assert site.totals.isfinite().all()
        assert site.count == 1


@every_pattern
def test_channels_last_is_kept(pattern):
    """Outputs and gradients at a site keep the memory format."""
    for per_feature in (False, True):
        site = site_of(pattern, per_feature=per_feature, importance="taylor")
        x = torch.rand(4, 4, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = site.hook(nn.Identity(), (), x)
        y.backward(torch.ones_like(x))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("pattern", "allocation", "importance"),
    [
        *((pattern, "uniform", "taylor") for pattern in get_args(Pattern)),
        *((pattern, "feature", "activation") for pattern in get_args(Pattern)),
        ("channel", "feature", "statistical"),
    ],
)
def test_a_step_never_waits_for_its_device(pattern, allocation, importance):
    """A training step works on meta tensors.

    They stand for an accelerator: reading a value from one, or mixing it with a tensor on the CPU, raises.
    """
    model, engine = make(EngineConfig(pattern=pattern, allocation=allocation, importance=importance, w_spatial=0.2))
    model.to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        images, labels = (part.to("meta") for part in batch())
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert all(site.p.is_meta for site in engine.sites.values())
    with pytest.raises(RuntimeError, match="meta"):
        engine.step(epoch=1, epochs=2)  # between epochs it may read values


@pytest.mark.parametrize("reentrant", [True, False])
@every_pattern
def test_checkpointing_gives_the_same_gradients(pattern, reentrant):
    """The recomputed forward pass draws the same masks."""
    config = EngineConfig(pattern=pattern, allocation="feature", r0=0.5, w_spatial=0.25)
    whole, _ = make(config)
    parts, _ = make(config, checkpointing={"use_reentrant": reentrant})
    torch.testing.assert_close(gradients(whole), gradients(parts))
    assert equal([site.totals for site in sites_of(whole)], [site.totals for site in sites_of(parts)])


def test_a_checkpoint_is_recomputed_after_other_passes():
    """A pass is observed again in the recomputation, although enough samples were scored in between."""
    images = batch(512)[0]  # a pass scores 32 samples, which is enough
    found = []
    for options in ({}, {"checkpointing": {"use_reentrant": False}}):
        model, _ = make(**options)
        (model(images) + model(-images)).square().mean().backward()
        found.append([*(p.grad for p in model.parameters()), *(site.totals for site in sites_of(model))])
    torch.testing.assert_close(*found)


def test_observing_does_not_move_the_masks_of_a_checkpoint():
    """The recomputed pass draws the same masks, although enough samples are scored once the first pass has ended."""
    hosts = nn.Sequential(nn.Identity(), nn.Identity()).train()
    for host in hosts:
        site = DropoutSite(1, 4, "channel", importance="activation")
        site.p.fill_(0.5)
        host.register_forward_hook(site.hook)
    x = torch.ones(16, 4, 3, 3, requires_grad=True)
    for _ in range(20):
        for site in sites_of(hosts):
            site.refresh(0.0)
            site.count.fill_(31)  # the first pass scores the 32nd sample
        y = torch.utils.checkpoint.checkpoint(hosts, x, use_reentrant=False)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y)
