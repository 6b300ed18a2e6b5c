"""Every pattern drops exactly the requested fraction, for every map, block size and rate."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dropopt.config import P_MAX
from dropopt.engine.masks import mixture, noise, patterns, spatial
from dropopt.engine.site import DropoutSite

PATTERNS = ("element", "channel", "structured", "spatial")
MAPS = [(), (1, 1), (1, 7), (3, 5), (8, 8), (28, 12), (1,), (33,), (2, 3, 4), (5, 1, 6)]
BLOCKS = (1, 3, 100)
#: Rates that differ by feature and include both extremes.
UNEVEN = (0.0, 0.02, 0.3, 0.61, P_MAX)
CHANNELS = len(UNEVEN)
HOST = nn.Identity().train()


def make_site(pattern, rates, block=3, axis=1):
    rates = torch.as_tensor(rates, dtype=torch.float32).reshape(-1)
    features = max(len(rates), CHANNELS)
    site = DropoutSite(axis, features, pattern, block, per_feature=len(rates) > 1)
    site.p.copy_(rates)
    return site


def picture(samples, space, seed=0):
    """Return positive activations with structure: a ramp plus noise, with a few positions far above the rest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, CHANNELS, *space, generator=generator, dtype=torch.float64) + 0.1
    ramp = torch.linspace(0, 2, math.prod(space), dtype=torch.float64).view(space)
    bright = torch.rand(samples, 1, *space, generator=generator) < 0.05
    return (x + ramp + 5 * bright).float()


def mean_and_error(values):
    """Return the mean over samples (dimension 0) and its standard error."""
    values = values.double()
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def assert_rates(site, x, rates, seed, sigma=4.0):
    """Assert that features are dropped at their rates and keep their means, within ``sigma`` standard errors."""
    torch.manual_seed(seed)
    y = site.hook(HOST, (), x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert rates != 0.0 or torch.equal(y, x)
    moved = (x, y) if site.axis == 1 else (x.movedim(-1, 1), y.movedim(-1, 1))
    before, after = (t.double().flatten(2) if t.ndim > 2 else t.double().unsqueeze(-1) for t in moved)
    rates = torch.as_tensor(rates, dtype=torch.float64).expand(before.shape[1])
    share, share_error = mean_and_error((after == 0).double().mean(-1))
    shift, shift_error = mean_and_error((after - before).mean(-1))
    # With few dropped, or few kept, samples the spread is unreliable: then a sample counts as one unit.
    few = ((after == 0).any(-1).sum(0) < 30) | ((after != 0).any(-1).sum(0) < 30)
    fallback = (rates * (1 - rates) / len(x)).sqrt() * few
    assert ((share - rates).abs() <= sigma * torch.maximum(share_error, fallback)).all(), (share, rates, share_error)
    # Stored values are rounded to the dtype, which adds to the sampling error.
    rounding = 1.5 * torch.finfo(x.dtype).eps * before.mean()
    fallback = fallback * before.mean() / (1 - rates)
    assert (shift.abs() <= sigma * torch.maximum(shift_error, fallback) + rounding).all(), (shift, shift_error)


# -- exact rates


@pytest.mark.parametrize("space", MAPS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_dropped_fraction_is_the_rate(pattern, space):
    """For maps, tokens and vectors, each feature is dropped at its rate and keeps its expectation; 0 is the identity.

    Samples may share their memory, as in an output of ``expand``.
    """
    x = picture(max(120, min(4000, 400_000 // (CHANNELS * math.prod(space)))), space)
    last = x.movedim(1, -1).contiguous()
    sides = {min(block, max(space, default=0) + 1) for block in BLOCKS} if pattern == "spatial" else {3}
    for seed, rates in enumerate((0.0, 0.001, 0.1, 0.5, P_MAX, UNEVEN)):
        for block in sides:
            assert_rates(make_site(pattern, rates, block), x, rates, seed)
    for seed, rates in enumerate((0.0, 0.1, UNEVEN)):
        assert_rates(make_site(pattern, rates, axis=-1), last, rates, seed)
    assert_rates(make_site(pattern, UNEVEN), x[:1].expand(4000, *x.shape[1:]), UNEVEN, seed=9)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("pattern", ["element", "channel"])
def test_a_draw_of_exactly_zero_is_kept_at_a_rate_of_zero(pattern, traced, monkeypatch):
    """Random numbers are in [0, 1), so a unit is dropped only if its number is below the rate."""
    maps = [picture(3, space) for space in ((), (3,), (6, 5))]
    monkeypatch.setattr(patterns, "is_traced", lambda x: traced)
    monkeypatch.setattr(torch, "rand", lambda size, **options: torch.zeros(size, **options))
    monkeypatch.setattr(torch, "rand_like", lambda x, **options: torch.zeros_like(x, **options))
    for x in maps:
        for rows in (1, CHANNELS):
            gate = getattr(patterns, f"{pattern}_gate")(x, torch.zeros(rows, *[1] * (x.ndim - 2)))
            assert torch.equal(gate.times(x), x)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("pattern", [*PATTERNS, "own"])
def test_masks_do_not_depend_on_types(pattern, traced, monkeypatch):
    """The type of the activation, and the default type, change no mask: random numbers have a type of their own."""
    for module in (mixture, patterns, spatial) if traced else ():
        monkeypatch.setattr(module, "is_traced", lambda x: True)

    def masked(site, x, default=torch.float32):
        torch.manual_seed(0)
        torch.set_default_dtype(default)
        try:
            return site.hook(HOST, (), x)
        finally:
            torch.set_default_dtype(torch.float32)

    for space, rates in itertools.product([(6, 5), (3,), ()], [(0.3,), UNEVEN]):
        x = (picture(40, space) * 8).round() / 8  # exact in half precision
        site = make_site(pattern, UNEVEN if pattern == "own" else rates)
        if pattern == "own":
            site.set_mixture(torch.full((5,), 0.2), torch.tensor(UNEVEN).expand(5, CHANNELS))
        y = masked(site, x)
        for kind in (torch.float16, torch.bfloat16, torch.float64):
            torch.testing.assert_close(masked(site, x, kind), y)
            other = masked(site, x.to(kind))
            assert other.dtype == kind
            assert torch.equal(other == 0, y == 0), (space, rates, kind)
            torch.testing.assert_close(other.float(), y, rtol=4 * max(torch.finfo(kind).eps, 1e-7), atol=0)


@pytest.mark.parametrize(
    ("pattern", "block"), [(pattern, 3) for pattern in PATTERNS] + [("spatial", 2), ("spatial", 5)]
)
def test_every_unit_has_the_same_marginal_rate(pattern, block):
    """On a constant map each unit, borders included, is dropped at the rate p of its feature, or else 1 / (1 - p)."""
    samples, rates = 20_000, torch.tensor(UNEVEN).view(-1, 1, 1)
    torch.manual_seed(block)
    y = make_site(pattern, UNEVEN, block).hook(HOST, (), torch.ones(samples, CHANNELS, 4, 6))
    torch.testing.assert_close(y, (y != 0) / (1 - rates))
    error = (rates * (1 - rates) / samples).sqrt()  # samples are independent
    assert (((y == 0).double().mean(0) - rates).abs() <= 4.2 * error).all()


def test_rounded_bars_meet_the_rate():
    """A bar has 65,536 levels; random rounding by its fraction gives safe and other positions exact rates.

    Where the safe area is too small for the rate, its positions have the largest rate, and the others the rest.
    """
    area = torch.linspace(0.01, 1, 50)
    for p, units in itertools.product((0.0, 1e-4, 0.1, 0.8, P_MAX), (1, 9, 100, 4096)):
        low, high, *scales = spatial._split(torch.tensor(p), area, units).double()
        rates = []
        for bar, scale in zip((low, high), scales, strict=True):
            up = bar - bar.floor()
            reached = (1 - up) * (1 - bar.floor() / 2**16) ** units + up * (1 - (bar.floor() + 1) / 2**16) ** units
            rates.append(1 - reached)
            torch.testing.assert_close(scale * reached, torch.ones(50).double(), rtol=0, atol=2e-5)
        assert ((area * rates[1] + (1 - area) * rates[0] - p).abs() < 3e-7).all(), (p, units)
        torch.testing.assert_close(rates[1], (p / area).clamp(max=P_MAX).double(), rtol=0, atol=3e-7)


# -- references


def reference_structure(norms):
    """Return eq. (8) for one map of any number of dimensions, position by position, from its norms over channels."""
    matter = np.zeros(norms.shape)
    for position in np.ndindex(norms.shape):
        around = []
        for step in itertools.product((-1, 0, 1), repeat=norms.ndim):
            moved = zip(position, step, norms.shape, strict=True)
            around.append(norms[tuple(min(max(i + by, 0), size - 1) for i, by, size in moved)])
        mean = sum(around) / len(around)
        matter[position] = mean + abs(norms[position] - mean)
    return matter <= matter.mean() * (1 + 1e-6)


@pytest.mark.parametrize("scale", [2.0**-50, 1.0, 2.0**50])
@pytest.mark.parametrize("autocast", [False, True])
def test_spatial_structure_matches_a_reference(scale, autocast):
    """Eq. (8) computed with explicit loops in float64 marks the same positions safe, in every layout."""
    for seed, space in enumerate([(3, 3), (5, 7), (2, 6), (6, 1), (9,), (3, 2, 4)]):
        x = picture(10, space, seed=seed)
        expected = [reference_structure(one.double().norm(dim=0).numpy()).tolist() for one in x]
        for laid in (x, x.movedim(1, -1).contiguous().movedim(-1, 1), x.movedim(2, -1).contiguous().movedim(-1, 2)):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                safe = spatial.spatial_structure(laid * scale)
            assert safe.dtype == torch.float32
            assert safe[:, 0].tolist() == expected, space


@pytest.mark.parametrize("rates", [(0.55,), UNEVEN], ids=str)
@pytest.mark.parametrize("space", [(5, 4), (7,), (2, 3, 2)], ids=str)
def test_spatial_gate_matches_a_reference(space, rates):
    """Explicit loops give the same blocks, the same rates of safe and other positions, and the same scale."""
    for block in (1, 2, 3, 5):
        x, rows = picture(4, space, seed=block), len(rates)
        torch.manual_seed(block)
        gate = spatial.spatial_gate(x, torch.tensor(rates).view(-1, *[1] * len(space)), block).times(torch.ones_like(x))
        assert rows > 1 or torch.equal(gate, gate[:, :1].expand_as(gate))
        sides = [min(block, size) for size in space]
        torch.manual_seed(block)
        rounding = torch.rand(2, 4, rows)
        grid = [size + side - 1 for size, side in zip(space, sides, strict=True)]
        draws = 4 * math.prod(grid)
        words = torch.empty(-(-draws // 4), dtype=torch.int64).random_(-(2**63), None)
        noise = words.view(torch.int16)[:draws].view(4, *grid).int() + 2**15
        for n in range(4):
            safe = reference_structure(x[n].double().norm(dim=0).numpy())
            area = safe.mean()
            for position in np.ndindex(space):
                window = noise[(n, *(slice(i, i + side) for i, side in zip(position, sides, strict=True)))]
                for c, value in enumerate(gate[(n, slice(rows), *position)].tolist()):
                    rate = inside = min(P_MAX, rates[c] / area)
                    if not safe[position]:
                        rate = min(P_MAX, max(0.0, (rates[c] - area * inside) / (1 - area)))
                    down = math.floor(2**16 * (1 - (1 - rate) ** (1 / window.numel())))
                    below, above = (1 - (1 - (down + up) / 2**16) ** window.numel() for up in (0, 1))
                    up = (rate - below) / (above - below) + rounding[int(safe[position]), n, c].item() >= 1
                    hit = int(window.min()) < down + up
                    assert value == pytest.approx(0 if hit else 1 / (1 - rate), rel=1e-4)


@pytest.mark.parametrize("pattern", ["channel", "structured"])
def test_channel_gate_matches_a_reference(pattern):
    """A map is dropped if its random number is at least 1 - p."""
    x = picture(40, (5, 5))
    torch.manual_seed(1)
    y = make_site(pattern, UNEVEN).hook(HOST, (), x)
    torch.manual_seed(1)
    keep = 1 - torch.tensor(UNEVEN)
    gate = (torch.rand(40, CHANNELS) < keep) / keep
    torch.testing.assert_close(y, x * gate[:, :, None, None])


def test_element_gate_matches_a_reference():
    """Bytes compared with thresholds one by one give the same gate."""
    x = picture(3, (4, 5))
    torch.manual_seed(1)
    gate = make_site("element", UNEVEN)._gate(x).times(torch.ones_like(x))
    torch.manual_seed(1)
    rounding = torch.rand(3, CHANNELS, 1, 5)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.uint8)[: x.numel()].view(x.shape).tolist()
    for n, c, i, j in np.ndindex(*x.shape):
        p = UNEVEN[c]
        dropped = draws[n][c][i][j] < math.floor(p * 256 + rounding[n, c, 0, j].item())
        assert gate[n, c, i, j].item() == pytest.approx(0 if dropped else 1 / (1 - p), rel=1e-6)


def test_words_of_bits_match_a_reference():
    """With one rate, a unit's 8 random bits are compared as a number with a threshold that 64 units share."""
    x, p = torch.ones(9, 5, 7, 2), 0.299  # 630 units in ten words, the last one incomplete
    torch.manual_seed(1)
    gate = patterns.element_gate(x, torch.full((1, 1, 1), p)).times(x).flatten().tolist()
    torch.manual_seed(1)
    draws = torch.empty(8 * 10, dtype=torch.int64).random_(-(2**63), None).view(8, 10).tolist()
    up = torch.rand(10) < p * 256 - 76
    assert up.any()
    assert not up.all()
    for unit, value in enumerate(gate):
        word, byte, place = unit // 64, unit % 64 // 8, 7 - unit % 8
        bits = [(draw[word] % 2**64).to_bytes(8, sys.byteorder)[byte] >> place & 1 for draw in draws]
        number = sum((1 - bit) << i for i, bit in enumerate(bits))
        assert value == pytest.approx(0 if number < 76 + up[word].item() else 1 / (1 - p))


# -- safe positions


def test_a_constant_map_is_wholly_safe():
    """All positions of a constant map are safe, however its mean is rounded."""
    values, spaces = (0.0, 1.0, 0.1, 1e-20, 3.3e4), ((1, 1), (7, 7), (64, 64), (33,))
    for value, space, channels in itertools.product(values, spaces, (1, 3, 64)):
        assert spatial.spatial_structure(torch.full((2, channels, *space), value)).all(), (value, space, channels)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_map_that_is_not_finite_keeps_its_rate(p):
    """Where prominence overflows or is NaN, no position is safe and all have the same rate."""
    for value in (1e30, math.inf, math.nan):
        gate = spatial.spatial_gate(torch.full((2000, 1, 6, 6), value), torch.full((1, 1, 1), p), 3)
        share, error = mean_and_error((gate.times(torch.ones(1)) == 0).double().flatten(1).mean(1))
        assert abs(share - p) <= 4 * error


# -- random bytes


def assert_uniform(draws):
    """Assert that 256 values are equally frequent: chi-square is within four sigma."""
    expected = len(draws) / 256
    chi_square = ((torch.bincount(draws.long(), minlength=256) - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)


def test_random_bytes_are_uniform_in_every_lane():
    """Each of the eight bytes of a word is uniform."""
    torch.manual_seed(0)
    draws = noise.random_bytes(torch.empty(800_000))
    assert draws.dtype == torch.uint8
    for lane in draws.view(-1, 8).T:
        assert_uniform(lane)


@pytest.mark.parametrize("compiled", [False, True])
def test_random_shorts_are_uniform(compiled, monkeypatch):
    """Over the full range, also where a compiler traces them, by their extremes and the counts of their high bytes."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    torch.manual_seed(0)
    draws = noise.random_shorts(1_000_001, torch.device("cpu"))
    assert (draws.dtype, len(draws), *draws.aminmax()) == (torch.int16, 1_000_001, -(2**15), 2**15 - 1)
    assert_uniform((draws.int() + 2**15) >> 8)


def test_random_bytes_follow_the_memory_layout():
    """Noise has the memory layout of the activation, so that masking is contiguous."""
    plain = torch.empty(2, 3, 4, 5)
    for x in (plain, plain.to(memory_format=torch.channels_last), torch.empty(2, 7, 3).movedim(-1, 1)):
        assert noise.random_bytes(x).stride() == x.stride()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_block_as_large_as_the_map_shifts_over_its_border(rate):
    """Unlike torchvision's, which drops the whole map: that would make a few images lose all and most lose nothing.

    torchvision's own test counts maps that are dropped as a whole. Here blocks are centred beyond the border as well,
    so that every position is dropped at the rate, and a map is rarely dropped as a whole.
    """
    torch.manual_seed(0)
    x, error = torch.rand(4000, 1, 5, 5) + 0.5, 5 * (rate / 4000) ** 0.5
    theirs = (torchvision.ops.drop_block2d(x, rate, 5) == 0).flatten(1)
    assert (theirs.all(1) == theirs.any(1)).all()
    assert theirs.all(1).float().mean().item() == pytest.approx(rate, abs=error)
    mine = (spatial.spatial_gate(x, torch.full((1, 1, 1), rate), 5).times(x) == 0).flatten(1)
    assert mine.float().mean().item() == pytest.approx(rate, abs=error)
    assert mine.all(1).float().mean() < rate / 5
    assert mine.any(1).float().mean() > 1.5 * rate
