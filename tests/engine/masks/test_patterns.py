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
MAPS = [(1, 1), (1, 7), (3, 5), (8, 8), (28, 12), (1,), (33,), (2, 3, 4), (5, 1, 6)]
BLOCKS = (1, 2, 3, 4, 7, 100)
RATES = (0.001, 0.1, 0.5, P_MAX)
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


def samples_for(space, units=400_000):
    return max(120, min(10_000, units // (CHANNELS * math.prod(space))))


# -- exact rates


@pytest.mark.parametrize("space", MAPS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_dropped_fraction_is_the_rate(pattern, space):
    """For every map and block size, each feature is dropped at its rate and keeps its expectation."""
    blocks = sorted({min(block, max(space) + 1) for block in BLOCKS}) if pattern == "spatial" else [3]
    x = picture(samples_for(space), space)
    for block in blocks:
        for seed, rate in enumerate(RATES):
            assert_rates(make_site(pattern, rate, block), x, rate, seed)
        assert_rates(make_site(pattern, UNEVEN, block), x, UNEVEN, seed=9)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("axis", "space"), [(-1, (9,)), (-1, (1,)), (-1, (4, 6)), (1, ())], ids=str)
def test_tokens_and_vectors_are_dropped_at_their_rates(pattern, axis, space):
    """Tokens (N, L, D), channels-last maps (N, H, W, C) and vectors (N, F) keep their rates too."""
    x = picture(4000, space)
    if axis == -1:
        x = x.movedim(1, -1).contiguous()
    for seed, rate in enumerate(RATES):
        assert_rates(make_site(pattern, rate, axis=axis), x, rate, seed)
    assert_rates(make_site(pattern, UNEVEN, axis=axis), x, UNEVEN, seed=9)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_rate_of_zero_is_the_identity(pattern):
    """p = 0 leaves the input as it is, bit for bit."""
    for space in MAPS:
        x = picture(50, space)
        assert torch.equal(make_site(pattern, 0.0).hook(HOST, (), x), x)


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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_memory_layout_keeps_rates(pattern):
    """Channels innermost, and an output of ``expand``, whose samples share their memory."""
    repeated = [picture(1, space).expand(4000, -1, *[-1] * len(space)) for space in ((), (3,), (6, 5))]
    for x in (picture(1500, (6, 5)).contiguous(memory_format=torch.channels_last), *repeated):
        assert_rates(make_site(pattern, UNEVEN), x, UNEVEN, seed=4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_unit_has_the_same_marginal_rate(pattern):
    """On a constant map each unit, borders and corners included, is dropped at the rate of its feature."""
    samples, space = 20_000, (4, 6)
    for block in (2, 3, 5) if pattern == "spatial" else (1,):
        torch.manual_seed(block)
        dropped = make_site(pattern, UNEVEN, block).hook(HOST, (), torch.ones(samples, CHANNELS, *space)) == 0
        share = dropped.double().mean(0)  # (C, H, W), samples are independent
        rates = torch.tensor(UNEVEN, dtype=torch.float64).view(-1, 1, 1)
        error = (rates * (1 - rates) / samples).sqrt()
        assert ((share - rates).abs() <= 4.2 * error).all()


@pytest.mark.parametrize("pattern", ["channel", "structured"])
def test_whole_maps_are_dropped_or_scaled_by_their_own_rate(pattern):
    """y is 0 or x / (1 - p_i) in each feature i, at all positions alike."""
    x = picture(40, (5, 5))
    y = make_site(pattern, UNEVEN).hook(HOST, (), x)
    kept = (y != 0).all((2, 3), keepdim=True)
    assert not torch.where(kept, 0, y).any()
    torch.testing.assert_close(torch.where(kept, y, 0), kept * x / (1 - torch.tensor(UNEVEN).view(-1, 1, 1)))


def test_kept_units_are_scaled_by_their_own_rate():
    """y is 0 or x / (1 - p_i) in each feature i."""
    x = picture(40, (5, 5))
    rates = torch.tensor(UNEVEN).view(1, -1, 1, 1)
    for pattern in ("element", "channel", "structured"):
        y = make_site(pattern, UNEVEN).hook(HOST, (), x)
        kept = y != 0
        torch.testing.assert_close(y[kept], (x / (1 - rates))[kept])
    constant = torch.ones(40, CHANNELS, 5, 5)  # wholly safe, so that eq. (8) changes no rate
    y = make_site("spatial", UNEVEN).hook(HOST, (), constant)
    torch.testing.assert_close(y[y != 0], (constant / (1 - rates))[y != 0])


def test_units_of_a_pattern_are_dropped_together():
    """Channel drops whole maps, spatial blocks of positions in all channels, element independent units."""
    torch.manual_seed(0)
    ones = torch.ones(200, CHANNELS, 8, 8)
    channel = make_site("channel", 0.4).hook(HOST, (), ones) == 0
    assert ((channel.float().mean((2, 3)) % 1) == 0).all()
    spatial = make_site("spatial", 0.4, block=3).hook(HOST, (), ones) == 0
    assert (spatial == spatial[:, :1]).all()
    neighbours = [(d[..., 1:] & d[..., :-1]).double().mean().item() for d in (spatial, channel)]
    element = make_site("element", 0.4).hook(HOST, (), ones) == 0
    apart = (element[..., 1:] & element[..., :-1]).double().mean().item()
    assert apart == pytest.approx(0.16, abs=0.01)  # 0.4 squared: independent
    assert min(neighbours) > 0.22


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


def test_spatial_structure_matches_a_reference():
    """Eq. (8) computed with explicit loops in float64 marks the same positions safe, in every layout."""
    for seed, space in enumerate([(3, 3), (5, 7), (2, 6), (6, 1), (9,), (3, 2, 4)]):
        x = picture(10, space, seed=seed)
        for laid in (x, x.movedim(1, -1).contiguous().movedim(-1, 1), x.movedim(2, -1).contiguous().movedim(-1, 2)):
            safe = spatial.spatial_structure(laid)
            for n in range(len(x)):
                expected = reference_structure(x[n].double().norm(dim=0).numpy())
                assert safe[n, 0].tolist() == expected.tolist()


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


def test_element_gate_matches_a_reference():
    """Bytes compared with thresholds one by one give the same gate."""
    x = picture(3, (4, 5))
    rates = torch.tensor(UNEVEN)
    torch.manual_seed(1)
    gate = make_site("element", UNEVEN)._gate(x).times(torch.ones_like(x))
    torch.manual_seed(1)
    rounding = torch.rand(3, CHANNELS, 1, 5)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.uint8)[: x.numel()].view(x.shape).tolist()
    for n, c, i, j in ((n, c, i, j) for n in range(3) for c in range(CHANNELS) for i in range(4) for j in range(5)):
        p = rates[c].item()
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


def test_a_bright_spot_is_protected():
    """Eq. (8): a bright spot and its neighbourhood are kept, and the background is dropped more to meet the rate."""
    x = torch.full((300, CHANNELS, 9, 9), 0.1)
    x[:, :, 4, 4] = 5.0
    safe = spatial.spatial_structure(x)[0, 0]
    assert not safe[3:6, 3:6].any()
    assert safe[:2].all()
    assert safe[-2:].all()
    torch.manual_seed(0)
    dropped = make_site("spatial", 0.3).hook(HOST, (), x) == 0
    assert not dropped[:, :, 3:6, 3:6].any()
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_a_constant_map_is_wholly_safe():
    """All positions of a constant map are safe, however its mean is rounded."""
    values, spaces = (0.0, 1.0, 0.1, 1e-20, 3.3e4), ((1, 1), (7, 7), (64, 64), (33,))
    for value, space, channels in itertools.product(values, spaces, (1, 3, 64)):
        assert spatial.spatial_structure(torch.full((2, channels, *space), value)).all(), (value, space, channels)


def test_safe_positions_do_not_depend_on_layout_or_autocast():
    """Safe positions are computed in float32 and depend neither on the memory layout nor on autocast."""
    x = torch.randn(20, 32, 9, 9, generator=torch.Generator().manual_seed(0))
    plain = spatial.spatial_structure(x)
    with torch.autocast("cpu", torch.bfloat16):
        other = spatial.spatial_structure(x.to(memory_format=torch.channels_last))
    assert other.dtype == plain.dtype == torch.float32
    assert torch.equal(other, plain)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_something_is_always_safe(scale):
    """At least one position is at most as important as the mean, so that a rate can be met."""
    x = torch.randn(500, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * scale
    safe = spatial.spatial_structure(x)
    assert safe.flatten(1).any(1).all()
    assert not safe.flatten(1).all(1).any()


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


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("p", [0.0004, 1 / 3, 0.9497])
def test_rates_between_bytes_are_exact(p, rows):
    """A rate that is no multiple of 1/256 is met; over 4 million units, truncation would be detected."""
    x = torch.ones(1000, 40, 10, 10)
    torch.manual_seed(0)
    dropped = patterns.element_gate(x, torch.full((rows, 1, 1), p)).times(x) == 0
    share, error = mean_and_error(dropped.double().mean((1, 2, 3)))
    assert abs(share - p) <= 4 * error
    assert error < 0.1 / 256


def test_random_bytes_follow_the_memory_layout():
    """Noise has the memory layout of the activation, so that masking is contiguous."""
    plain = torch.empty(2, 3, 4, 5)
    for x in (plain, plain.to(memory_format=torch.channels_last), torch.empty(2, 7, 3).movedim(-1, 1)):
        assert noise.random_bytes(x).stride() == x.stride()


def test_bits_are_unpacked_as_packed():
    """Packing and unpacking is lossless for every size and memory layout."""
    maps = torch.rand(2, 8, 5, 7).to(memory_format=torch.channels_last)
    for x in (torch.rand(3, 5, 7, 1), maps, torch.rand(1, 9, 8)):
        kept = torch.empty_like(x, dtype=torch.uint8).copy_(x < 0.5)
        bits = patterns._pack(kept, noise.memory_order(kept))
        for scale in (torch.ones(1, 1), torch.full((x.shape[1], *[1] * (x.ndim - 2)), 2.0)):
            again = patterns._from_bits(bits, scale, kept.shape, noise.memory_order(kept))
            assert torch.equal(again, kept * scale)
            assert again.stride() == kept.stride()
        assert bits.numel() == -(-x.numel() // 8)


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
