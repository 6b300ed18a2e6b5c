"""The equations at their limits: properties of each reading, extreme arguments, and errors."""

import inspect
import math
import re

import pytest
import torch
from equation_arguments import ARGUMENTS, close
from hypothesis import given, settings
from hypothesis import strategies as st

from dropopt import equations

PROFILE = settings(max_examples=50)
READINGS = ("printed", "sound")
either_reading = pytest.mark.parametrize("reading", READINGS)

UNIT = st.floats(0, 1, width=16)


@either_reading
def test_adjusted_alpha_broadcasts(reading):
    """Both readings broadcast alpha with the loss, and only the sound one depends on its value."""
    alpha = torch.tensor([0.0, 0.5, 1.0])
    result = equations.adjusted_alpha(alpha, 2.0, 4.0, 2.0, reading=reading)
    assert torch.equal(result, alpha / 2 if reading == "sound" else torch.full((3,), 0.5))


@either_reading
def test_structured_rate_is_what_the_mask_drops(reading):
    """The structured rate is the fraction that the random mask drops, averaged over evenly spaced noise."""
    noise = (torch.arange(100, dtype=torch.float64)[:, None] + 0.5) / 100
    structure = torch.tensor([1.0, 0.0, 1.0, 1.0])
    mask = equations.random_mask(noise, structure, 0.37, reading=reading)
    assert set(mask.unique().tolist()) == {0, 1}
    close(equations.structured_rate(0.37, structure.double(), reading=reading), 1 - mask.mean())


@PROFILE
@given(rates=st.lists(st.floats(-0.5, 1.5, width=16), min_size=4, max_size=4), data=st.data())
def test_integrated_rate_is_a_mean_of_clipped_rates(rates, data):
    """The rate is within the members' range, equals a single member with weight, and ignores the scale of weights."""
    weights = data.draw(st.lists(UNIT, min_size=4, max_size=4).filter(any))
    clipped = [min(max(rate, 0), 1) for rate in rates]
    blend = equations.integrated_rate(rates, weights)
    assert min(clipped) - 1e-12 <= blend <= min(max(clipped) + 1e-12, 1)
    assert equations.integrated_rate(rates, [8 * w for w in weights]) == blend
    assert equations.integrated_rate(rates, [0, 0, 1e-300, 0]) == clipped[2]


def test_integrated_rate_broadcasts():
    """Members may be numbers, rates per channel or rates per position; weights may differ by channel."""
    channel, position = torch.rand(3, 1, 1), torch.rand(2, 2)
    result = equations.integrated_rate([0.5, channel, position], [1.0, 2.0, 1.0])
    close(result, (0.5 + 2 * channel + position) / 4, 1e-6)
    assert equations.integrated_rate([0.0, 1.0], [channel * 0 + 1, 3.0]).flatten().tolist() == [0.75] * 3


@PROFILE
@given(width=st.integers(1, 300), scale=st.floats(1e-3, 1e3))
def test_pfid_rate_and_width(width, scale):
    """Sound: from r0 (1 - weight) to r0 exp(-weight) at any width and scale. Printed: vanishes."""
    importance = torch.full((width,), 0.5, dtype=torch.float64) * scale
    sound = equations.pfid_rate(0.8, 0.5, importance, reading="sound")
    assert 0.4 - 1e-9 <= sound <= 0.8 * math.exp(-0.5)
    close(sound, 0.8 * (1 - 0.5 / width) ** width)
    assert equations.pfid_rate(0.8, 0.5, importance / scale, reading="printed") <= 0.8 * 0.75**width + 1e-9


@either_reading
def test_pfid_rate_is_r0_without_importance(reading):
    """The rate is r0 if no importance is positive; beside others, a negative importance counts as 0."""
    for importance in (torch.zeros(4), torch.tensor([-1.0, 0.0, -2.0])):
        assert equations.pfid_rate(0.25, 3.0, importance, reading=reading) == 0.25
    mixed, counted = (equations.pfid_rate(0.25, 0.25, torch.tensor([low, 2.0]), reading=reading) for low in (-1.0, 0.0))
    assert mixed == counted


def test_half_precision_keeps_small_factors():
    """Over 512 features each factor of eq. (16) would round to 1 in bfloat16; the product is still right."""
    rate = equations.pfid_rate(0.8, 1.0, torch.ones(512, dtype=torch.bfloat16), reading="sound")
    assert rate.item() == pytest.approx(0.8 * math.exp(-1), rel=0.01)


def test_dropped_gradient_shapes():
    """p is per output feature; noise is per entry, or per output feature, with trailing dimensions or not."""
    gradient = torch.rand(3, 2, 5, 5).to(torch.bfloat16) + 1
    p = torch.tensor([0.0, 0.5, 1.0])
    for noise in (torch.full((3, 2, 5, 5), 0.5), torch.full((3, 1, 1, 1), 0.5), torch.full((3,), 0.5)):
        kept = equations.dropped_gradient(gradient, noise, p)
        assert kept.dtype is torch.bfloat16
        assert torch.equal(kept, gradient * torch.tensor([1, 1, 0]).view(3, 1, 1, 1))


def test_dropped_gradient_drops_nan():
    """A dropped entry is 0 even where the gradient is not finite."""
    gradient = torch.tensor([[math.nan, math.inf], [1.0, 2.0]])
    kept = equations.dropped_gradient(gradient, torch.zeros(2), torch.tensor([0.5, 0.0]))
    assert kept.tolist() == [[0, 0], [1, 2]]


def test_gradient_at_the_poles():
    """At t = 0 and P = 0 a finite slope is exact, an infinite one is 0, and other gradients are not affected."""
    for theta, slope in ((1.0, -0.1), (2.0, 0.0), (0.5, 0.0)):
        r0, t, exponent = (torch.tensor(x, requires_grad=True) for x in (0.4, 0.0, theta))
        equations.adaptive_rate(r0, 0.5, 0.5, t, 1.0, exponent).backward()
        assert (r0.grad.item(), t.grad.item(), exponent.grad.item()) == (1, pytest.approx(slope), 0)
    performance, psi = torch.tensor(0.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    equations.performance_factor(performance, psi, reading="printed").backward()
    assert (performance.grad.item(), psi.grad.item()) == (0, pytest.approx(math.log(2.0**-126)))


def test_dtypes_mix_as_in_torch():
    """Numbers and 0-dim tensors do not widen the dtype; integer and bool masks are computed in floats."""
    layer = torch.ones(3, dtype=torch.bfloat16)
    r0 = torch.tensor(0.5, dtype=torch.float64)
    assert equations.feature_rate(r0, 1.0, layer, reading="sound").dtype is torch.bfloat16
    assert equations.feature_rate(r0, layer.half(), layer, reading="sound").dtype is torch.float32
    assert equations.structured_rate(r0, layer > 0, reading="sound").dtype is torch.float64
    assert equations.structured_rate(0.5, layer > 0, reading="sound").dtype is torch.float32


EXTREME = [
    ("adjusted_alpha", {"alpha": 1.0, "loss": 3e4, "delta": 3e4, "threshold": 0.0, "reading": "sound"}, 1),
    ("adjusted_alpha", {"alpha": 1.0, "loss": 0.0, "delta": 3e4, "threshold": 3e4, "reading": "printed"}, 0),
    ("duration_factor", {"duration": 3e4, "midpoint": 0.0, "phi": 3e4}, 0),
    ("duration_factor", {"duration": 3e4, "midpoint": 0.0, "phi": -3e4}, 1),
    ("complexity_factor", {"complexity": 3e4, "theta": 3e4}, 1),
    ("feature_rate", {"r0": 0.5, "weight": 3e4, "importance": [3e4, 0.0], "reading": "printed"}, [0.5, 0]),
    ("feature_rate", {"r0": 0.0, "weight": 3e4, "importance": [-3e4, 0.0], "reading": "sound"}, [0, 0]),
    ("pfid_rate", {"r0": 0.5, "weight": 0.0, "importance": [3e4] * 9, "reading": "sound"}, 0.5),
    ("pfid_rate", {"r0": 0.5, "weight": 3e4, "importance": [3e4, 0.0], "reading": "printed"}, 0),
    ("normalised", {"importance": [-6e4, 6e4, 0.0]}, [0, 1, 0.5]),
    ("probabilistic_importance", {"mean": [6e4, -6e4], "variance": [0.0, 0.0]}, [1, 0]),
    ("probabilistic_importance", {"mean": [0.0, 0.0], "variance": [-1e-3, 6e4]}, [0.5, 0.5]),
    ("performance_factor", {"performance": 0.0, "psi": 0.0, "reading": "sound"}, 1),
    ("performance_factor", {"performance": 0.0, "psi": 8.0, "reading": "sound"}, 0),
]


def test_normalised_spans_the_whole_range():
    """The extremes of a dtype are normalised to 0 and 1."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        ends = torch.tensor([torch.finfo(dtype).min, 0.0, torch.finfo(dtype).max], dtype=dtype)
        assert equations.normalised(ends).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("name", "values", "expected"), EXTREME)
def test_extremes(name, values, expected):
    """Sums, products and exponentials beyond a dtype's range give the limit, never NaN."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        leaves = {k: torch.tensor(x, dtype=dtype, requires_grad=True) for k, x in values.items() if k != "reading"}
        result = getattr(equations, name)(**values | leaves)
        close(result, expected, 1e-2, dtype)
        result.sum().backward()
        if dtype is not torch.float16:  # 0.4 / sqrt(1e-12), the slope of eq. (12) without variance, exceeds its range
            assert all(x.grad.isfinite().all() for x in leaves.values()), dtype


UNIT_INTERVAL = {"r0", "r", "p", "depth", "progress"}
NOT_NEGATIVE = {"theta", "theta_depth", "theta_epoch", "complexity", "performance", "variance", "weight"}
FUNCTIONS = list(ARGUMENTS)


def call(name, **changed):
    """Call a function with numbers only, 0.5 for each argument that is not given."""
    parameters = inspect.signature(getattr(equations, name)).parameters
    values = {key: "sound" if key == "reading" else 0.5 for key in parameters}
    return getattr(equations, name)(**values | changed)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "integrated_rate"])
def test_ranges(name):
    """Every number argument accepts exactly its documented range; the error states the range and the value."""
    for key in inspect.signature(getattr(equations, name)).parameters:
        if key == "reading":
            continue
        allowed, low, high = "finite", -math.inf, math.inf
        if key in UNIT_INTERVAL and name != "threshold_mask":
            allowed, low, high = "in [0, 1]", 0, 1
        elif key in NOT_NEGATIVE and name != "contextual_rate":
            allowed, low = "finite and >= 0", 0
        for value in (-math.inf, -1e300, -0.1, 0.0, 1.0, 1.1, 1e300, math.inf, math.nan):
            if math.isfinite(value) and low <= value <= high:
                assert math.isfinite(call(name, **{key: value})) or abs(value) == 1e300
            else:
                with pytest.raises(
                    ValueError, match=rf"^\w+ must be {re.escape(allowed)}, got {re.escape(str(value))}$"
                ):
                    call(name, **{key: value})


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if "clipped to [0, 1]" in getattr(equations, name).__doc__]
)
def test_clipped_functions_stay_in_the_unit_interval(name):
    """A strength outside [0, 1] gives a rate at an end of [0, 1], and never one beyond."""
    readings = READINGS if "reading" in inspect.signature(getattr(equations, name)).parameters else (None,)
    strength = {"adaptive_rate": "alpha", "contextual_rate": "performance", "importance_rate": "alpha"}.get(name)
    if name == "pfid_rate":  # values of tensors are not checked, but each factor is clipped all the same
        weights = [torch.tensor(w, dtype=torch.float64) for w in (-9.0, 9.0)]
        assert [[call(name, weight=w, reading=r).item() for w in weights] for r in readings] == [[0.5, 0.0]] * 2
    elif name == "integrated_rate":
        assert [equations.integrated_rate([rate], [1.0]) for rate in (-9.0, 9.0)] == [0, 1]
    else:
        for reading in readings:
            given = {} if reading is None else {"reading": reading}
            assert {call(name, **{strength: value}, **given) for value in (-99.0, 99.0)} == {0.0, 1.0}


def test_the_default_device_has_no_effect():
    """Numbers alone are computed on the CPU, and numbers beside a tensor on its device."""
    with torch.device("meta"):
        assert equations.complexity_factor(0.5, 2.0) == pytest.approx(-math.expm1(-1))
        rate = equations.feature_rate(0.5, 1.0, torch.zeros(2, device="cpu"), reading="sound")
    assert rate.tolist() == [0.5, 0.5]
    assert equations.feature_rate(0.5, 1.0, torch.zeros(2, device="meta"), reading="sound").is_meta


def test_normalised_is_exact():
    """Halving before subtraction changes no bit of the quotient."""
    values = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7 - 3
    exact = (values - values.min()) / (values.max() - values.min())
    assert torch.equal(equations.normalised(values), exact)


LEGAL = {
    "random_mask": {"noise": 0.5, "structure": 1.0, "r": 0.5, "reading": "sound"},
    "pfid_rate": {"r0": 0.5, "weight": 1.0, "importance": 1.0, "reading": "printed"},
    "integrated_rate": {"rates": [0.1, 0.2, 0.3], "weights": [1.0, 0.0, 0.0]},
}
ERRORS = [
    ("integrated_rate", {"rates": [math.nan, 0, 0]}, "rates[0] must be finite, got nan"),
    ("integrated_rate", {"weights": [1.0]}, "rates and weights must have the same length, got 3 and 1"),
    *(
        (name, {"reading": "Sound"}, "reading must be 'printed' or 'sound', got 'Sound'")
        for name in ("random_mask", "pfid_rate")
    ),
    *(
        ("integrated_rate", {"weights": weights}, f"weights must be >= 0 with a finite sum above 0, got {shown}")
        for weights, shown in (
            ([0.0, 0, 0], "[0.0, 0, 0]"),
            ([1.0, -0.5, 1], "[1.0, -0.5, 1]"),
            ([1.0, math.inf, 0], "[1.0, inf, 0]"),
            (torch.tensor([1.0, math.nan, 1]), "[1.0, nan, 1.0]"),
            ([torch.tensor([1.0, 0.0]), 0, 0], "[[1.0, 0.0], 0, 0]"),
        )
    ),
]


@pytest.mark.parametrize(("name", "bad", "message"), ERRORS)
def test_errors(name, bad, message):
    """An illegal argument raises, with its name, what is allowed and what was given."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(equations, name)(**LEGAL[name] | bad)
