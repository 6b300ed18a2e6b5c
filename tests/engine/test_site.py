"""A site drops features while its module trains, and scores their importance."""

import copy
import itertools
import math
from contextlib import nullcontext
from statistics import fmean
from typing import get_args

import pytest
import torch
from small_net import Net, batch, every_config, every_pattern, make, site_of
from torch import nn

import dropopt
from dropopt.config import Baseline, EngineConfig
from dropopt.engine.importance.from_training import activation_score
from dropopt.engine.masks.patterns import channel_gate, element_gate
from dropopt.engine.masks.spatial import spatial_gate, spatial_structure
from dropopt.engine.site import DropoutSite

# -- training and evaluation


def test_eval_and_detached_models_drop_nothing():
    """model.eval() silences every site, for the engine and for each baseline; so does detach()."""
    images, _ = batch()
    plain = Net().eval()
    kinds = get_args(Baseline.model_fields["kind"].annotation)
    for config in (EngineConfig(r0=0.9), *(Baseline(kind=kind, p=0.9) for kind in kinds)):
        model, engine = make(config)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model.eval()(images), plain(images))
        engine.detach()
        model.train()
        torch.manual_seed(0)
        assert torch.equal(model(images), model(images))


def test_a_probe_inside_a_silent_block_does_not_end_it():
    """A probe silences the sites as well, and leaves them as they were."""
    model, engine = make(EngineConfig(r0=0.9, importance="gradient"))
    images, labels = batch()
    with engine.silent():
        engine.probe(images, labels)
        assert torch.equal(model(images), model(images))
    assert not torch.equal(model(images), model(images))


@every_config
def test_a_place_that_never_drops_is_reported(config):
    """A frozen norm in eval mode drops nothing in training: step() says so, until it trains in at least one pass."""
    model, engine = make(config)
    images, _ = batch()
    message = (
        r"^nothing was dropped at 'one\.norm' and 1 more since the last step, because the module stayed in eval mode"
    )
    for frozen, warned in (((model.one, model.two), message), ((model.one,), r"'one\.norm' since"), ((), None)):
        model.train()
        for block in frozen:
            block.norm.eval()
        assert torch.equal(model(images), model(images)) == (len(frozen) == 2)
        model.eval()
        model(images)
        if warned:
            with pytest.warns(UserWarning, match=warned):
                engine.step(epoch=1, epochs=4)
        else:
            engine.step(epoch=1, epochs=4)
        model(images)
        engine.step(epoch=2, epochs=4)  # no pass in training mode since the last step
    model, engine = copy.deepcopy((model, engine))
    model.train()
    model.one.norm.eval()
    model(images)
    with pytest.warns(UserWarning, match=r"'one\.norm' since .* or attach to the part of the model that is trained$"):
        engine.step(epoch=2, epochs=4)


@every_pattern
def test_an_empty_batch_leaves_no_trace(pattern):
    """With no samples or no positions the output passes unchanged, and neither scores nor rates become NaN."""
    for shape in ((0, 4, 6, 6), (0, 4), (2, 4, 0, 3)):
        site, x = site_of(pattern, importance="activation", track_area=True), torch.empty(shape, requires_grad=True)
        y = site.hook(nn.Identity(), (), x)
        assert (x if y is None else y).shape == shape
        site.refresh(0.5)
        assert (site.area, site.count) == (1, 0)
        assert (site.importance == 1).all()


# -- scores


@pytest.mark.parametrize("masks", [True, False])
@every_pattern
def test_taylor_scores_match_a_reference(pattern, masks):
    """|sum of activation before the mask x gradient after it|, also of features that are dropped, which have none.

    An in-place activation may overwrite the output.
    """
    torch.manual_seed(0)
    site = DropoutSite(1, 4, pattern, 2, per_feature=True, importance="taylor", masks=masks)
    site.p.copy_(torch.tensor([0.0, 0.3, 0.6, 0.95]))
    x = torch.randn(32, 4, 3, 3, requires_grad=True)
    before = x.detach().clone()
    output = x * 1
    y = site.hook(nn.Identity(), (), output)
    output.detach().zero_()  # the module may reuse its buffer
    behind = torch.randn(32, 4, 3, 3)
    gradient = behind * (y.detach() > 0).float().clamp(min=0.1)  # that reaches the site, also where y is 0
    nn.functional.leaky_relu(y, 0.1, inplace=True).backward(behind)
    expected = (before * gradient)[:2].double().sum((2, 3)).abs().sum(0)  # of one sample in 16
    assert site.totals[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert site.count == 2


@pytest.mark.parametrize("kind", ["activation", None])
def test_every_step_is_observed_at_first_then_one_in_eight(kind):
    """Every step is observed until 32 samples have been scored, then one step in 8; a refresh restarts the count.

    The same holds for the fraction of safe positions if no importance is scored during training.
    """
    site = DropoutSite(1, 3, "channel", importance=kind, track_area=True, masks=False)
    for _ in range(2):
        torch.manual_seed(0)
        drawn, counts = [torch.rand((), dtype=torch.float64).item() for _ in range(100)], []
        torch.manual_seed(0)
        for _ in drawn:
            site.hook(nn.Identity(), (), torch.ones(128, 3, 2, 2))
            counts.append(int(site.count))
        assert counts == list(itertools.accumulate(8 * (i < 4 or one < 1 / 8) for i, one in enumerate(drawn)))
        site.refresh(0.0)
        assert site.count == 0


def test_what_is_observed_does_not_depend_on_steps_before_a_refresh():
    """A run that continues from a state scores the same steps, also if all epochs have the same seed."""

    def train(site, samples):
        torch.manual_seed(0)
        for _ in range(40):
            site.hook(nn.Identity(), (), torch.ones(samples, 3, 2, 2))

    site, resumed = (DropoutSite(1, 3, "channel", importance="activation", masks=False) for _ in range(2))
    train(site, 16)  # scores a sample in each of the first 32 steps
    site.refresh(0.0)
    resumed.resume(site.state_dict())
    train(site, 128)  # scores 8 samples, so that 4 steps are enough
    train(resumed, 128)
    assert site.count == resumed.count


def test_code_for_compilers_observes_every_step(monkeypatch):
    """A graph has no branch that depends on a count."""
    site = DropoutSite(1, 3, "channel", importance="activation")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for _ in range(20):
        site.hook(nn.Identity(), (), torch.rand(128, 3, 2, 2))
    assert site.count == 20 * 8


@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_second_derivatives_are_right(pattern, per_feature):
    """A gradient penalty differentiates through the gate twice: with y = g x, (y^3)' = 3 g^3 x^2."""
    torch.manual_seed(0)
    site = site_of(pattern, per_feature=per_feature, importance="taylor")
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    y = site.hook(nn.Identity(), (), x)
    gate = (y / x).detach()
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    torch.testing.assert_close(second, 36 * gate**6 * x.detach() ** 3)


@pytest.mark.parametrize("per_feature", [True, False])
@every_pattern
def test_little_is_kept_for_the_backward_pass(pattern, per_feature):
    """A site keeps its gate, at most one bit per unit, and for taylor a sixteenth of the activation."""
    torch.manual_seed(0)
    site = site_of(pattern, features=8, per_feature=per_feature, importance="taylor")
    x = torch.randn(64, 8, 12, 12, requires_grad=True)
    storages = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: storages.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        y = site.hook(nn.Identity(), (), x)
    kept = sum(storages.values()) / (x.numel() * x.element_size())
    # A spatial gate is shared among 8 channels; where their rates differ, its noise and its bars are kept instead.
    gate = {"element": 1 / 32, "spatial": 1 / 4 if per_feature else 1 / 8, "own": 1 / 16}.get(pattern, 1 / 144)
    assert kept <= 1 / 16 + gate + 1e-3
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


@pytest.mark.parametrize("positions", [3, 27, 49])
def test_a_constant_map_responds_everywhere(positions):
    """The activation score of a constant map is its value, although the mean of equal numbers may be rounded up."""
    values = torch.rand(64)
    maps = values.view(1, 64, 1).expand(1, 64, positions)
    assert (maps.mean(2) > values).any()
    torch.testing.assert_close(activation_score(maps), values)


def strong_response(values):
    """The sum of the magnitudes that are at least their mean, divided by the number of values."""
    magnitudes = [abs(value) for value in values]
    return fmean(m * (m >= fmean(magnitudes)) for m in magnitudes)


ROWS_BY_HAND = {"activation": [strong_response], "statistical": [fmean, lambda v: fmean(value**2 for value in v)]}


@pytest.mark.parametrize("shape", [(), (7,), (4, 4), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", ROWS_BY_HAND)
def test_forward_scores_add_up_over_passes(kind, shape):
    """Vectors, signals, images and volumes: summed over samples and passes, of the activation before the mask.

    A tenth of the fraction of positions that are safe is added to the moving average, of maps only; a refresh keeps it.
    """
    torch.manual_seed(0)
    site = DropoutSite(1, 3, "channel" if shape else "element", importance=kind, track_area=True)
    site.p.fill_(0.9)
    passes, area = [torch.randn(32, 3, *shape) for _ in range(3)], 1.0
    for x in passes:
        site.hook(nn.Identity(), (), x)
        area += 0.1 * (spatial_structure(x[:2]).mean().item() - area) if shape else 0
    features = torch.cat([x[:2] for x in passes]).reshape(6, 3, -1).tolist()  # one sample in 16 is observed
    expected = [[sum(row(sample[c]) for sample in features) for c in range(3)] for row in ROWS_BY_HAND[kind]]
    assert site.count == 6
    assert site.totals.tolist() == [pytest.approx(row, rel=1e-4, abs=1e-5) for row in expected]
    site.refresh(0.5)
    assert site.area.item() == pytest.approx(area)


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


@pytest.mark.parametrize("kind", ["activation", "statistical", "taylor"])
def test_an_infinite_activation_leaves_importances_finite(kind):
    """Where the score overflows, the importance is 0."""
    site = DropoutSite(1, 3, "channel", importance=kind)
    x = torch.rand(4, 3, 2, 2).index_fill_(1, torch.tensor(1), torch.inf).requires_grad_()
    site.hook(nn.Identity(), (), x).sum().backward()
    site.refresh(0.5)
    assert site.refreshes == 1
    assert site.importance.isfinite().all()


def test_scores_are_float32_whatever_the_default_type():
    """Counts above 256 do not fit bfloat16, which may be the default type when the engine is attached."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        site = DropoutSite(1, 3, "own", importance="activation", track_area=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {name for name, buffer in site.named_buffers() if buffer.dtype != torch.float32} == {"refreshes"}


@pytest.mark.parametrize("kind", ["activation", "statistical", "taylor"])
def test_half_precision_is_scored_in_float32(kind):
    """Activations and gradients in bfloat16 give the totals and the area of the same numbers in float32."""
    draw, found = torch.Generator().manual_seed(0), []
    x, behind = (torch.randn(64, 3, 9, 7, generator=draw).bfloat16() for _ in range(2))
    for dtype in (torch.bfloat16, torch.float32):
        site = DropoutSite(1, 3, "channel", importance=kind, track_area=True)
        site.hook(nn.Identity(), (), x.to(dtype, copy=True).requires_grad_()).backward(behind.to(dtype))
        found.append((site.totals, site.area))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert found[0][0].all()


def test_a_fresh_site():
    """It drops nothing, all features are equally important, all positions are safe, and methods have equal shares."""
    for per_feature in (False, True):
        site = DropoutSite(-1, 3, "own", per_feature=per_feature, importance="statistical")
        assert {name: buffer.tolist() for name, buffer in site.named_buffers()} == {
            "p": [0.0] * (3 if per_feature else 1),
            "shares": [pytest.approx(0.2)] * 5,
            "method_rates": [[0.0] * 3] * 5,
            "importance": [1.0] * 3,
            "totals": [[0.0] * 3] * 2,
            "count": 0,
            "refreshes": 0,
            "area": 1,
        }
        assert torch.equal(site._shares_on_host, site.shares)
        assert site.refreshes.dtype == torch.int64
    for kind, rows in (("taylor", 1), ("activation", 1), ("lrp", 0), (None, 0)):
        site = DropoutSite(1, 3, "channel", importance=kind)
        assert site.totals.shape == (rows, 3)
        assert site.observes == (rows > 0)
    assert DropoutSite(1, 3, "channel", track_area=True).observes


@pytest.mark.parametrize("space", [(), (1,), (1, 1), (2,), (1, 2), (3, 2)], ids=str)
def test_which_units_share_a_random_number(space):
    """Blocks need at least two positions: with one, features are independent units; vectors have one number each."""
    one = [1] * len(space)
    for pattern in ("element", "channel", "structured", "spatial"):
        site = DropoutSite(1, 4, pattern, 2)
        site.p.fill_(0.5)
        x, p = torch.rand(200, 4, *space) + 0.5, site.p.view(1, *one)
        torch.manual_seed(0)
        y = site.hook(nn.Identity(), (), x)
        torch.manual_seed(0)
        if pattern == "spatial" and math.prod(space) > 1:
            gate = spatial_gate(x, p, 2)
            assert (gate.whole().expand_as(x) == gate.whole()[:, :1]).all()
        else:
            gate = (element_gate if pattern == "element" or (pattern == "spatial" and space) else channel_gate)(x, p)
        assert torch.equal(y, gate.times(x))


@every_config
def test_a_backward_hook_that_sees_the_dropout_of_a_layer_with_weights_is_reported(config):
    """As those of Opacus, whose gradients of samples are then wrong for this layer, but right for an activation."""
    seen = []
    for sites in ("norm", lambda name, module: isinstance(module, nn.ReLU)):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
        engine = dropopt.attach(model, config, example=torch.rand(2, 3, 6, 6), complexity=0.5, sites=sites)
        model[1].register_full_backward_hook(lambda module, given, gradients: seen.append(gradients[0].sum((0, 2, 3))))
        text = (
            "^a backward hook of module GroupNorm sees the gradient after the dropout: .* choose sites without weights"
        )
        with pytest.warns(UserWarning, match=text) if sites == "norm" else nullcontext():
            model(torch.rand(8, 3, 6, 6)).square().sum().backward()
        assert torch.allclose(seen[-1], model[1].bias.grad, rtol=1e-4) == (sites != "norm")
        model(torch.rand(8, 3, 6, 6))  # once for each step
        engine.detach()


class Annotated(torch.Tensor):
    """A tensor with metadata, as MONAI's MetaTensor is one."""


@pytest.mark.parametrize("importance", ["taylor", "statistical"])
@every_pattern
def test_tensors_with_metadata_are_dropped_as_others(pattern, importance):
    """They keep their type and attributes, in-place operations may follow, and the state has no tensors of the kind."""
    found = []
    for kind in (torch.Tensor, Annotated):
        site = site_of(pattern, importance=importance)
        x = torch.ones(32, 4, 6, 6, requires_grad=True)
        output = (2 * x).as_subclass(kind)
        output.spacing = 0.5
        torch.manual_seed(0)
        y = site.hook(nn.Identity().train(), (), output)
        assert (type(y), getattr(y, "spacing", 0.5)) == (kind, 0.5)
        y.mul_(3).square().sum().backward()
        assert {type(value) for value in site.state_dict().values()} == {torch.Tensor}
        found.append([x.grad, *site.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Labelled(torch.Tensor):
    """Targets with metadata, which torch does not combine with images of another such type."""


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
def test_a_probe_takes_tensors_with_metadata(importance):
    """As those of fastai: the importances are those of plain tensors."""
    images, labels = batch()
    model, plain = make(EngineConfig(importance=importance))
    plain.probe(images, labels)
    importances = plain.importances()
    plain.detach()
    engine = dropopt.attach(model, plain.config, example=images.as_subclass(Annotated), complexity=0.5)
    engine.probe(images.as_subclass(Annotated), labels.as_subclass(Labelled))
    assert all(torch.equal(one, importances[name]) for name, one in engine.importances().items())


@pytest.mark.parametrize("pattern", ["element", "channel"])
def test_a_parameter_that_a_module_returns_gives_a_tensor(pattern):
    """As operations of torch do: a parameter that is no leaf cannot be an attribute of a module."""
    parameter = nn.Parameter(torch.ones(8, 4))
    y = site_of(pattern).hook(nn.Identity().train(), (), parameter)
    y.sum().backward()
    assert type(y) is torch.Tensor
    assert torch.equal(parameter.grad, y)
