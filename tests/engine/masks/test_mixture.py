"""Pattern "own": eq. (15) as the law of total probability, each method in its own pattern."""

import pytest
import torch
from torch import nn

from dropopt.config import METHODS
from dropopt.engine.masks.mixture import OWN_PATTERN, drawn_methods, mixture_gate
from dropopt.engine.masks.patterns import channel_gate, element_gate
from dropopt.engine.masks.spatial import spatial_gate
from dropopt.engine.site import DropoutSite

HOST = nn.Identity().train()
SHARES = torch.tensor([0.3, 0.2, 0.1, 0.15, 0.25])
RATES = torch.tensor([[0.2] * 4, [0.0, 0.5, 0.0, 0.5], [0.3] * 4, [0.1, 0.2, 0.3, 0.4], [0.25] * 4])


def make_site(shares=SHARES, rates=RATES, axis=1):
    site = DropoutSite(axis, rates.shape[1], "own", 3, per_feature=True)
    site.set_mixture(shares, rates)
    return site


def corner(method):
    return torch.tensor([float(name == method) for name in METHODS])


def test_methods_are_in_the_order_of_the_equations():
    """Rows of shares and rates mean the same methods everywhere; each method has its pattern."""
    patterns = ("element", "channel", "channel", "channel", "spatial")
    assert list(OWN_PATTERN.items()) == list(zip(METHODS, patterns, strict=True))


@pytest.mark.parametrize(("axis", "shape"), [(1, (13, 4, 7, 6)), (-1, (13, 5, 4))])
def test_every_unit_is_dropped_at_the_rate_of_eq_15(axis, shape):
    """P(dropped) = sum w r for each feature, for each sample wherever it lies in the batch, and E[output] = input."""
    site = make_site(axis=axis)
    dropped, total, steps = torch.zeros(13, 4), torch.zeros(13, 4), 600
    torch.manual_seed(0)
    for _ in range(steps):
        y = site.hook(HOST, (), torch.ones(shape)).movedim(axis, 1).flatten(2)
        dropped += (y == 0).float().mean(2)
        total += y.mean(2)
    expected = SHARES @ RATES
    torch.testing.assert_close(site.p, expected)
    error = (expected * (1 - expected) / steps).sqrt()  # if all units of a sample fell together
    assert ((dropped / steps - expected).abs() <= 5 * error).all()
    assert ((dropped.mean(0) / steps - expected).abs() <= 5 * error / 13**0.5).all()
    assert (total.mean(0) / steps - 1).abs().max() <= 5 * (0.35 / steps / 13) ** 0.5


def test_traced_code_draws_methods_at_their_shares():
    """The blend of rates alone tells shares that are nearly right from right ones too rarely."""
    torch.manual_seed(0)
    counts, expected = torch.bincount(drawn_methods(100_000, SHARES), minlength=5), 100_000 * SHARES
    assert ((counts - expected).abs() <= 5 * (expected * (1 - SHARES)).sqrt()).all()


def in_order(samples, patterns, shares):
    """Return each pattern with its samples, around the drawn circle, and the methods of these samples."""
    drawn = torch.multinomial(shares, samples, replacement=True).tolist()
    start = int(torch.randint(samples, ()))
    found = []
    for pattern in patterns:
        methods = sorted(method for method in drawn if OWN_PATTERN[METHODS[method]] == pattern)
        found.append((pattern, [(start + k) % samples for k in range(len(methods))], methods))
        start += len(methods)
    return found


@pytest.mark.parametrize("space", [(7,), (6, 5), (3, 2, 4)], ids=str)
def test_a_batch_is_masked_pattern_by_pattern(space):
    """Each method's samples have the gate that its pattern draws for them at the method's rates."""
    x, one = torch.rand(11, 4, *space) + 0.5, [1] * len(space)
    for seed, shares in enumerate((SHARES, SHARES, SHARES, *(corner(method) for method in METHODS))):
        torch.manual_seed(seed)
        y = make_site(shares).hook(HOST, (), x)
        torch.manual_seed(seed)
        expected = torch.zeros_like(x)
        for pattern, taken, methods in in_order(11, ("element", "channel", "spatial"), shares):
            if not taken:
                continue
            mine, rates = x[taken], RATES[methods].view(-1, 4, *one)
            if pattern == "element":
                gate = element_gate(mine, rates[0, :1])
            elif pattern == "spatial":
                gate = spatial_gate(mine, rates[0, :1], 3)
            else:
                gate = channel_gate(mine, rates)
            expected[taken] = gate.times(mine)
        assert torch.equal(y, expected), seed


@pytest.mark.parametrize("space", [(7,), (6, 5), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("tool", ["compiler", "CUDA graph"])
def test_traced_code_selects_among_the_gates_of_all_patterns(tool, space, monkeypatch):
    """A sample has the gate of the method that was drawn for it, with that method's rates.

    A CUDA graph would repeat what the CPU has drawn, and cannot hold ``multinomial``, which may wait for the device.
    """
    if tool == "compiler":
        monkeypatch.setattr("dropopt.engine.masks.mixture.is_traced", lambda x: True)
    else:
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        monkeypatch.setattr("dropopt.engine.masks.mixture._parts", None)
        monkeypatch.setattr(torch, "multinomial", None)
    x, one = torch.rand(40, 4, *space) + 0.5, [1] * len(space)
    for kind in (torch.float32, torch.float64):
        torch.manual_seed(1)
        y = x.to(kind) * mixture_gate(x.to(kind), SHARES, SHARES, RATES, 3).saved[0]
        torch.manual_seed(1)
        methods = drawn_methods(40, SHARES)
        channel = channel_gate(x, RATES[methods].view(40, 4, *one)).whole()
        element = element_gate(x, RATES[0, :1].view(1, *one)).whole()
        block = spatial_gate(x, RATES[4, :1].view(1, *one), 3).whole()
        for sample, method in enumerate(methods.tolist()):
            gate = {"element": element, "channel": channel, "spatial": block}[OWN_PATTERN[METHODS[method]]]
            torch.testing.assert_close(y[sample].float(), x[sample] * gate.expand_as(x)[sample])


@pytest.mark.parametrize("space", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("traced", [False, True])
def test_features_of_one_unit_have_one_gate(space, traced, monkeypatch):
    """Units, maps and blocks are then the same: each unit is dropped by itself, at the rate of its sample's method."""
    monkeypatch.setattr("dropopt.engine.masks.mixture.is_traced", lambda x: traced)
    x = torch.rand(40, 4, *space) + 0.5
    torch.manual_seed(1)
    y = make_site().hook(HOST, (), x)
    torch.manual_seed(1)
    rates = RATES[drawn_methods(40, SHARES)].view(x.shape)
    assert torch.equal(y, channel_gate(x, rates).times(x))
