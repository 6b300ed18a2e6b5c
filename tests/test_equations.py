"""Every equation: golden cases, the formula restated, dtypes, gradients and devices."""

import inspect
import json
import math
from pathlib import Path
from statistics import NormalDist, fmean

import pytest
import torch
from equation_arguments import ARGUMENTS, close
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dropopt import equations

GOLDEN = json.loads((Path(__file__).parent / "vectors" / "equations.json").read_text())
PROFILE = settings(max_examples=20)
READINGS = ("printed", "sound")
HALF = (torch.float16, torch.bfloat16)

KINDS = {name: dict(w.split(":") for w in words.split() if ":" in w) for name, words in ARGUMENTS.items()}
CASES = [(name, r) for name, words in ARGUMENTS.items() for r in (READINGS if "reading" in words else (None,))]
every_case = pytest.mark.parametrize(("name", "reading"), CASES)

# Few bits, so that sums are exact in float64 and ties occur; the ends of a range are frequent.
UNIT = st.sampled_from((0.0, 1.0)) | st.floats(0, 1, width=16)
SIGN = st.sampled_from((-1.0, 0.0, 1.0)) | st.floats(-1, 1, width=16)
GAIN = st.sampled_from((0.0, 1.0)) | st.floats(0, 8, width=16)
REAL = st.floats(-8, 8, width=16)
NOISE = st.floats(0, 1, width=16, exclude_max=True)


def kind_of(kind, size):
    """Return values of a kind; a layer has ``size`` features."""

    def several(elements, size=size):
        return st.lists(elements, min_size=size, max_size=size)

    layer = several(UNIT) | UNIT.map(lambda x: [x] * size)
    kinds = {"unit": UNIT, "gain": GAIN, "real": REAL, "layer": layer, "reals": several(REAL)}
    kinds |= {"sign": SIGN}
    kinds |= {"mask": several(st.sampled_from((0.0, 1.0)))}
    kinds |= {"matrix": several(several(REAL, 2)), "noises": several(several(NOISE, 2))}
    return kinds[kind]


@st.composite
def arguments(draw, name, features=None):
    size = features or draw(st.integers(1, 6))
    values = {key: draw(kind_of(kind, size)) for key, kind in KINDS[name].items()}
    assume(any(values.get("weights", [1])))
    return values


def fixed(name):
    """Return legal values at which every function is smooth."""
    values = {"sign": 0.3, "unit": 0.3, "gain": 0.7, "real": 0.4, "layer": [0.15, 0.3, 0.9], "reals": [-1.0, 0.2, 1.1]}
    values |= {"mask": [0.0, 1.0, 1.0], "matrix": [[0.3, -0.2]] * 3, "noises": [[0.1, 0.5]] * 3}
    return {key: values[kind] for key, kind in KINDS[name].items()}


def tensors(values, dtype=torch.float64, grad=False):
    return {key: torch.tensor(x, dtype=dtype, requires_grad=grad) for key, x in values.items()}


def call(name, values, reading=None):
    return getattr(equations, name)(**values, **({} if reading is None else {"reading": reading}))


# -- golden cases, and each formula restated in plain Python


@every_case
def test_golden(name, reading):
    """Every golden case holds to 1e-9, with lists given as float64 tensors."""
    cases = [c for c in GOLDEN if (c["function"], c["args"].get("reading")) == (name, reading)]
    assert cases
    for case in cases:
        mixed = {k: torch.tensor(x, dtype=torch.float64) if isinstance(x, list) else x for k, x in case["args"].items()}
        close(getattr(equations, name)(**mixed), case["expected"], case=case["args"])


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log(x):
    return math.log(max(x, 2.0**-1022))


def clip(x):
    return min(max(x, 0.0), 1.0)


def norm(values):
    low, high = min(values), max(values)
    return [0.5 if low == high else (x - low) / (high - low) for x in values]


def shares(values):
    return [x / sum(values) if sum(values) > 0 else 0.0 for x in values]


RESTATED = {
    "adaptive_rate": lambda r0, a, d, t, td, te: clip(r0 * (1 - a * d**td * t**te)),
    "adjusted_alpha printed": lambda a, loss, delta, threshold: sigmoid(delta * (loss - threshold)),
    "adjusted_alpha sound": lambda a, loss, delta, threshold: a * sigmoid(delta * (loss - threshold)),
    "threshold_mask": lambda f, r: [0.0 if x <= r else 1.0 for x in f],
    "random_mask printed": lambda u, s, r: [float(u[i] < r and s[i] == 1) for i in range(len(u))],
    "random_mask sound": lambda u, s, r: [float(not (u[i] < r and s[i] == 1)) for i in range(len(u))],
    "structured_rate printed": lambda r, s: 1 - r * fmean(s),
    "structured_rate sound": lambda r, s: r * fmean(s),
    "complexity_factor": lambda d, theta: 1 - math.exp(-theta * d),
    "duration_factor": lambda t, mid, phi: 1 - sigmoid(phi * (t - mid)),
    "performance_factor printed": lambda p, psi: psi * log(p),
    "performance_factor sound": lambda p, psi: max(0.0, 1 + psi * log(p)),
    "contextual_rate": lambda r0, g, h, i: clip(r0 * g * h * i),
    "probabilistic_importance": lambda m, v: [
        NormalDist(fmean(m), math.sqrt(v[i] + 1e-12)).cdf(m[i]) for i in range(len(m))
    ],
    "feature_rate printed": lambda r0, w, f: [r0 * (1 - math.exp(-w * x)) for x in f],
    "feature_rate sound": lambda r0, w, f: [r0 * math.exp(-w * x) for x in f],
    "epoch_weight": lambda initial, kappa, t, theta: initial * (1 + kappa * t**theta),
    "integrated_rate": lambda r, w: sum(w[i] * r[i] for i in range(len(r))) / sum(w),
    "pfid_rate printed": lambda r0, w, f: r0 * math.prod(clip(1 - w * x) for x in f),
    "pfid_rate sound": lambda r0, w, f: r0 * math.prod(clip(1 - w * x) for x in shares(f)),
    "normalised": norm,
    "importance_rate printed": lambda a, f: [1 - a * x for x in norm(f)],
    "importance_rate sound": lambda a, f: [a * (1 - x) for x in norm(f)],
    "dropped_gradient": lambda g, u, p: [
        [0.0 if u[i][j] < p[i] else g[i][j] for j in range(len(g[i]))] for i in range(len(p))
    ],
}


@every_case
@PROFILE
@given(data=st.data())
def test_restated(name, reading, data):
    """With numbers and tensors mixed, a function equals its formula in plain Python."""
    values = data.draw(arguments(name))
    mixed = {k: torch.tensor(x, dtype=torch.float64) if isinstance(x, list) else x for k, x in values.items()}
    restated = RESTATED[name if reading is None else f"{name} {reading}"]
    close(call(name, mixed, reading), restated(*values.values()))


# -- properties of every function


def test_signatures():
    """The names and the order of arguments are fixed; ``reading`` is keyword-only and required."""
    for name, words in ARGUMENTS.items():
        parameters = inspect.signature(getattr(equations, name)).parameters
        assert list(parameters) == [word.split(":")[0] for word in words.split()]
        if "reading" in parameters:
            assert parameters["reading"].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters["reading"].default is inspect.Parameter.empty
        assert getattr(equations, name).__doc__.startswith(("Eq. (", "Lemma: ", "Weight update: "))


@every_case
@PROFILE
@given(data=st.data())
def test_numbers_give_what_tensors_give(name, reading, data):
    """Numbers give the float that float64 tensors give; a number is a layer with one feature."""

    def first(x):
        return first(x[0]) if isinstance(x, list) else x

    values = data.draw(arguments(name, features=1))
    numbers = values if name == "integrated_rate" else {key: first(x) for key, x in values.items()}
    result = call(name, numbers, reading)
    assert type(result) is float
    close(call(name, tensors(numbers), reading), result, tolerance=0)


@every_case
@PROFILE
@given(data=st.data(), dtype=st.sampled_from((torch.float32, *HALF)))
def test_other_dtypes(name, reading, data, dtype):
    """A narrower dtype is kept, and its result is rounded once."""
    values = data.draw(arguments(name))
    if name == "performance_factor":
        values["performance"] += 0.5  # 0 counts as the smallest number of the dtype
    if name == "probabilistic_importance":
        values["variance"] = [v + 0.5 for v in values["variance"]]  # near 0, float32's rounding of the mean matters
    narrow = tensors(values, dtype)
    result = call(name, narrow, reading)
    assert result.dtype is dtype
    exact = call(name, {key: x.double() for key, x in narrow.items()}, reading)
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


@every_case
@PROFILE
@given(data=st.data(), dtype=st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
def test_gradients_are_finite(name, reading, data, dtype):
    """Values and gradients are finite for legal arguments, poles and ties included."""
    values = tensors(data.draw(arguments(name)), dtype, grad=True)
    result = call(name, values, reading)
    assert result.isfinite().all()
    if result.requires_grad:
        result.sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in values.values())


@pytest.mark.parametrize(("name", "reading"), [case for case in CASES if "mask" not in case[0]])
def test_gradients_are_right(name, reading):
    """Where a function is smooth, its gradient matches finite differences."""
    values = tensors(fixed(name), grad=True)
    if name == "dropped_gradient":
        values |= {key: values[key].detach() for key in ("noise", "p")}

    def function(*changed):
        return call(name, dict(zip(values, changed, strict=True)), reading)

    assert torch.autograd.gradcheck(function, tuple(values.values()))


@every_case
def test_no_tensor_is_read(name, reading):
    """All functions work on "meta" tensors, which have no values, so none waits for a device."""
    values = {key: x.to("meta") for key, x in tensors(fixed(name)).items()}
    if name == "integrated_rate":
        values["weights"] = fixed(name)["weights"]
    result = call(name, values, reading)
    assert result.is_meta
    assert result.dtype is torch.float64


def test_compiles_whole():
    """torch.compile compiles all of them without a graph break."""

    def everything(values):
        return [call(name, values[name], reading) for name, reading in CASES]

    values = {name: tensors(fixed(name)) for name in ARGUMENTS}
    values["integrated_rate"]["weights"] = fixed("integrated_rate")["weights"]
    compiled = torch.compile(everything, backend="eager", fullgraph=True)
    for got, wanted in zip(compiled(values), everything(values), strict=True):
        close(got, wanted, tolerance=0)
