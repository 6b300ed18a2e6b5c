"""The paper in order: one pure function for each equation.

"Enhancing Efficiency and Regularization in Convolutional Neural Networks: Strategies for Optimized Dropout".
Rates (r0, r, p) are **drop** probabilities; d is relative depth, t the progress of training, I a feature's
importance, C the number of features of a layer. Where print and prose disagree there are two readings, and
the keyword ``reading`` has to choose; anything else in it is a ``ValueError``:

- ``"printed"``: the formula as it stands, made safe only by clipping to its legal range;
- ``"sound"``: the smallest change that does what the prose promises.

Every function takes Python numbers and tensors of any float dtype and device, mixed, and broadcasts. Numbers
alone give a float, computed in float64; otherwise the result has the dtype that torch's promotion gives, and
half precision is computed in float32 and rounded once. Reductions run over the whole layer, which is every
element of the tensor; a number is a layer of one feature.

A Python number outside the range beside its argument (finite, where none is given) is a ``ValueError``:
``r0 must be in [0, 1], got 1.3``. Tensors are not read, so nothing waits for a device. In range, no value is
NaN and no gradient infinite (float16 may overflow): where t^theta or log P has a pole, its gradient is 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor

from dropopt.config import Reading

Scalar: TypeAlias = float | Tensor


# -- eq. (1), (2): adaptive dropout ----------------------------------------------------------------------
def adaptive_rate(
    r0: Scalar,  # base rate, in [0, 1]
    alpha: Scalar,  # strength; within [0, 1] the clip never acts
    depth: Scalar,  # d = d_layer / D_max, in [0, 1]
    progress: Scalar,  # t = e_current / E_total, in [0, 1]
    theta_depth: Scalar,  # >= 0
    theta_epoch: Scalar,  # >= 0
) -> Scalar:  # in [0, 1]
    """Eq. (1): drop rate of a layer, by its depth and the progress of training.

        r0 (1 - alpha d^theta_depth t^theta_epoch), clipped to [0, 1]

    r0 at t = 0, and falling from there, faster in deeper layers. Print has a stray parenthesis: it is read so
    that "early in training, the dropout rate is closer to r0". From "Adaptive Dropout in CNNs".
    """
    (r0, alpha, d, t, theta_d, theta_t), lower = _lift(
        r0=r0, alpha=alpha, depth=depth, progress=progress, theta_depth=theta_depth, theta_epoch=theta_epoch
    )
    return lower((r0 * (1 - alpha * _power(d, theta_d) * _power(t, theta_t))).clamp(0, 1))


def adjusted_alpha(
    alpha: Scalar,
    loss: Scalar,  # validation loss
    delta: Scalar,  # sensitivity
    threshold: Scalar,  # lambda: the loss where the sigmoid is 1/2
    *,
    reading: Reading,
) -> Scalar:
    """Eq. (2): alpha of eq. (1), adjusted to the validation loss.

        printed:  sigmoid(delta (loss - threshold))
        sound:    alpha sigmoid(delta (loss - threshold))

    Rises with the loss where delta > 0. As printed, alpha matters only until the first validation; eq. (2)
    writes Phi(alpha, loss, delta), so the sound Phi depends on it. From "Dynamic alpha Adjustment".
    """
    (alpha, loss, delta, threshold), lower = _lift(alpha=alpha, loss=loss, delta=delta, threshold=threshold)
    gate = torch.sigmoid(delta * (loss - threshold))
    return lower(gate + 0 * alpha if _printed(reading) else alpha * gate)  # 0 alpha: for its shape


# -- eq. (3)-(8): structured and spatially aware dropout --------------------------------------------------
def threshold_mask(
    importance: Scalar,  # F of each feature, any shape
    r: Scalar,  # threshold
) -> Scalar:  # 0 or 1
    """Eq. (3), (4): keep mask that drops what is not important enough.

        0 where importance <= r, 1 otherwise

    Has no gradient. From "Structured Dropout in CNNs".
    """
    (importance, r), lower = _lift(importance=importance, threshold=r)
    return lower(torch.where(importance <= r, 0.0, 1.0))


def random_mask(
    noise: Scalar,  # uniform draws, in [0, 1)
    structure: Scalar,  # S: 0 or 1, broadcasts with noise
    r: Scalar,  # in [0, 1]
    *,
    reading: Reading,
) -> Scalar:  # 0 or 1
    """Eq. (5), (6); (7), (8) with a spatial S: random keep mask, restricted by the layer's structure.

        printed:  [noise < r] S        S = 1: may be kept
        sound:    1 - [noise < r] S    S = 1: may be dropped

    0 means dropped, as in eq. (4): so as printed r is a keep rate, and only in the sound reading a drop rate.
    From "Structured Dropout in CNNs" and "Spatially Aware Dropout".
    """
    (noise, structure, r), lower = _lift(noise=noise, structure=structure, r=r)
    drawn = torch.where(noise < r, structure, 0.0)
    return lower(drawn if _printed(reading) else 1 - drawn)


def structured_rate(
    r: Scalar,  # in [0, 1]
    structure: Scalar,  # S: 0 or 1, reduced
    *,
    reading: Reading,
) -> Scalar:  # in [0, 1], of r's shape
    """Eq. (15), its structured member: the fraction that ``random_mask`` drops on average.

        printed:  1 - r mean(S)
        sound:    r mean(S)

    "Integrated Dropout in CNNs" uses r_structured without defining it.
    """
    (r, structure), lower = _lift(r=r, structure=structure)
    drawn = r * structure.mean()
    return lower(1 - drawn if _printed(reading) else drawn)


# -- eq. (9)-(11): contextual dropout ---------------------------------------------------------------------
def complexity_factor(
    complexity: Scalar,  # D of the data set, >= 0
    theta: Scalar,  # Theta, >= 0
) -> Scalar:  # in [0, 1]
    """Eq. (9)-(11), g: how the data's complexity scales the contextual rate.

        1 - exp(-theta complexity)

    Rises with both. From "Contextual Dropout".
    """
    (complexity, theta), lower = _lift(complexity=complexity, theta=theta)
    return lower(-torch.expm1(-theta * complexity))


def duration_factor(
    duration: Scalar,  # T
    midpoint: Scalar,  # T_mid, in the unit of T
    phi: Scalar,  # Phi; < 0 grows with training, > 0 fades
) -> Scalar:  # in [0, 1]
    """Eq. (9)-(11), h: how the duration of training scales the contextual rate.

        1 - 1 / (1 + exp(-phi (duration - midpoint)))

    1/2 at the midpoint. From "Contextual Dropout".
    """
    (duration, midpoint, phi), lower = _lift(duration=duration, midpoint=midpoint, phi=phi)
    return lower(torch.sigmoid(-phi * (duration - midpoint)))  # 1 - sigmoid(x), which rounds to 0 early


def performance_factor(
    performance: Scalar,  # P: an accuracy, a loss or a ratio of losses, >= 0
    psi: Scalar,  # Psi
    *,
    reading: Reading,
) -> Scalar:
    """Eq. (9)-(11), i: how performance scales the contextual rate.

        printed:  psi log(performance)
        sound:    max(0, 1 + psi log(performance))

    As printed it may be negative: an accuracy below 1 gives a positive factor only where psi < 0. The sound
    factor is neutral, 1, at P = 1. P = 0 counts as the smallest normal number. From "Contextual Dropout".
    """
    (performance, psi), lower = _lift(performance=performance, psi=psi)
    feedback = psi * torch.log(performance.clamp(min=_tiny(performance)))
    return lower(feedback if _printed(reading) else (1 + feedback).clamp(min=0))


def contextual_rate(
    r0: Scalar,  # base rate, in [0, 1]
    complexity: Scalar,  # g, the value of complexity_factor
    duration: Scalar,  # h, the value of duration_factor
    performance: Scalar,  # i, the value of performance_factor: may be negative
) -> Scalar:  # in [0, 1]
    """Eq. (9)-(11): drop rate from the context, the product of the three factors.

        r0 g h i, clipped to [0, 1]

    From "Contextual Dropout".
    """
    (r0, g, h, i), lower = _lift(r0=r0, g=complexity, h=duration, i=performance)
    return lower((r0 * g * h * i).clamp(0, 1))


# -- eq. (12)-(16): PFID and the integrated rate ----------------------------------------------------------
def probabilistic_importance(
    mean: Scalar,  # (C,) running mean of each feature's activation
    variance: Scalar,  # (C,) its running variance, >= 0
) -> Scalar:  # (C,) in [0, 1]
    """Eq. (12): probabilistic importance, from the statistics of a layer's activations.

        PI_i = NormalCDF((m_i - mean(m)) / sqrt(v_i + 1e-12))

    The probability that feature i, taken as Gaussian, exceeds the layer's mean activation: 1/2 for a single
    feature. A variance that rounding left below 0 counts as 0. Print gives PI no form. From "PFID in CNNs".
    """
    (mean, variance), lower = _lift(mean=mean, variance=variance)
    return lower(torch.special.ndtr((mean - mean.mean()) * (variance.clamp(min=0) + 1e-12).rsqrt()))


def feature_rate(
    r0: Scalar,  # base rate, in [0, 1]
    weight: Scalar,  # lambda_epoch, >= 0
    importance: Scalar,  # I, (C,), >= 0: less counts as 0
    *,
    reading: Reading,
) -> Scalar:  # (C,) in [0, r0]
    """Eq. (13): per-feature drop rate.

        printed:  r0 (1 - exp(-weight importance))
        sound:    r0 exp(-weight importance)

    As printed the rate rises with importance; the sound one falls, as the prose has it: "features with higher
    importance have a significantly reduced dropout rate". From "PFID in CNNs".
    """
    (r0, weight, importance), lower = _lift(r0=r0, weight=weight, importance=importance)
    exponent = -(weight * importance).clamp(min=0)
    return lower(-r0 * torch.expm1(exponent) if _printed(reading) else r0 * torch.exp(exponent))


def epoch_weight(
    initial: Scalar,  # lambda_init
    kappa: Scalar,  # growth
    progress: Scalar,  # t = e_current / E_total, in [0, 1]
    theta: Scalar,  # >= 0
) -> Scalar:
    """Eq. (14): the importance weight lambda_epoch of eq. (13) and (16).

        initial (1 + kappa t^theta)

    initial at t = 0, initial (1 + kappa) at t = 1. From "Feature Importance Weight Adjustment in CNNs".
    """
    (initial, kappa, t, theta), lower = _lift(initial=initial, kappa=kappa, progress=progress, theta=theta)
    return lower(initial * (1 + kappa * _power(t, theta)))


def integrated_rate(
    rates: Sequence[Scalar] | Tensor,  # one for each method, clipped to [0, 1] first; shapes broadcast
    weights: Sequence[Scalar] | Tensor,  # efficacy of each method, >= 0, not all 0
) -> Scalar:  # in [0, 1]
    """Eq. (15): drop rate of several methods together, their mean weighted by efficacy.

        sum(w r) / sum(w)

    Weights that are negative, NaN, infinite or all 0 are a ``ValueError``, in tensors too: these alone are
    read, so pass numbers to wait for no device. From "Integrated Dropout in CNNs".
    """
    rates, weights = list(rates), list(weights)
    if len(rates) != len(weights):
        raise ValueError(f"rates and weights must be equally many, got {len(rates)} and {len(weights)}")
    _require_efficacy(weights)
    named = {f"rates[{i}]": rate for i, rate in enumerate(rates)}
    lifted, lower = _lift(**named, **{f"weights[{i}]": weight for i, weight in enumerate(weights)})
    r, w = lifted[: len(rates)], lifted[len(rates) :]
    total = reduce(torch.add, w)  # divided by first: a method alone gets its own rate to the last bit
    return lower(reduce(torch.add, (w_m / total * r_m.clamp(0, 1) for w_m, r_m in zip(w, r, strict=True))))


def pfid_rate(
    r0: Scalar,  # base rate, in [0, 1]
    weight: Scalar,  # lambda_epoch, >= 0
    importance: Scalar,  # I, (C,), >= 0: less counts as 0; reduced
    *,
    reading: Reading,
) -> Scalar:  # in [0, r0], of r0's shape
    """Eq. (16): PFID drop rate of a layer.

        printed:  r0 prod_i (1 - weight I_i)
        sound:    r0 prod_i (1 - weight I_i / sum(I))

    Each factor is clipped to [0, 1]. As printed it vanishes in wide layers; the sound product is over shares
    of the layer, so neither width nor scale matters, and is r0 where sum(I) = 0. From "PFID Dropout Rate".
    """
    (r0, weight, importance), lower = _lift(r0=r0, weight=weight, importance=importance)
    importance = importance.clamp(min=0)
    total = importance.sum()
    share = importance if _printed(reading) else importance / torch.where(total > _tiny(total), total, 1.0)
    return lower(r0 * (1 - weight * share).clamp(0, 1).prod())


# -- lemma and weight update: rates of single features ----------------------------------------------------
def normalised(importance: Scalar) -> Scalar:  # (C,) to (C,) in [0, 1]
    """Lemma: importance on the scale of its layer.

        norm(I) = (I - min(I)) / (max(I) - min(I))

    1/2 where all are equal: no feature stands out. From "Lemma (PFID Model)".
    """
    (importance,), lower = _lift(importance=importance)
    return lower(_norm(importance))


def importance_rate(
    alpha: Scalar,  # strength; within [0, 1] the clip never acts
    importance: Scalar,  # I, (C,)
    *,
    reading: Reading,
) -> Scalar:  # (C,) in [0, 1]
    """Lemma: drop rate p_ij of each feature, lower for the more important.

        printed:  1 - alpha norm(I), clipped to [0, 1]
        sound:    alpha (1 - norm(I)), clipped to [0, 1]

    As printed, a higher alpha means less dropout and the least important feature is always dropped. Sound, "a
    higher alpha means more dropout" and the most important is never dropped. From "Lemma (PFID Model)".
    """
    (alpha, importance), lower = _lift(alpha=alpha, importance=importance)
    norm = _norm(importance)
    return lower((1 - alpha * norm if _printed(reading) else alpha * (1 - norm)).clamp(0, 1))


def dropped_gradient(
    gradient: Scalar,  # dE/dW, (C, ...)
    noise: Scalar,  # uniform draws in [0, 1): (C, ...), or (C,) to drop whole output features
    p: Scalar,  # drop probability of each output feature, (C,), in [0, 1]
) -> Scalar:  # (C, ...) in the gradient's dtype
    """Weight update: Drop(p) dE/dW, the gradient with entries dropped and the others not rescaled.

        0 where noise < p, gradient elsewhere

    noise and p align with the gradient's first dimension. From "Integration into Backpropagation Algorithm".
    """
    (dense, noise, p), lower = _lift(gradient=gradient, noise=noise, p=p)
    noise, p = (x.reshape(x.shape + (1,) * (dense.dim() - x.dim())) for x in (noise, p))
    kept = torch.where(noise >= p, dense, 0.0)
    return kept.to(gradient.dtype) if isinstance(gradient, Tensor) else lower(kept)


# -- arguments: what is legal, and in which precision to compute ------------------------------------------
_MAX = sys.float_info.max
_FINITE = ("finite", -_MAX, _MAX)
_LEGAL = dict.fromkeys(("r0", "r", "p", "depth", "progress"), ("in [0, 1]", 0.0, 1.0)) | dict.fromkeys(
    ("theta", "theta_depth", "theta_epoch", "complexity", "performance", "variance", "weight"),
    ("finite and >= 0", 0.0, _MAX),
)


def _lift(**values: Scalar) -> tuple[list[Tensor], Callable[[Tensor], Scalar]]:
    """Arguments, if legal, as tensors of one working precision, and the way back to what the caller uses."""
    for name, value in values.items():
        allowed, low, high = _LEGAL.get(name, _FINITE)
        if not isinstance(value, Tensor) and not low <= value <= high:  # NaN is in no range
            raise ValueError(f"{name} must be {allowed}, got {value}")
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    if not tensors:
        return [torch.tensor(value, dtype=torch.float64, device="cpu") for value in values.values()], float
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    voters = [tensor for tensor in floating if tensor.dim()] or floating  # as in torch: 0-dim does not widen
    dtype = reduce(torch.promote_types, (t.dtype for t in voters)) if voters else torch.get_default_dtype()
    working = dtype if dtype.itemsize >= 4 else torch.float32  # in bfloat16, 1 - 1/512 would be 1
    device = max(tensors, key=Tensor.dim).device
    lifted = [
        x.to(working) if isinstance(x, Tensor) else torch.full((), x, dtype=working, device=device)
        for x in values.values()
    ]
    return lifted, lambda result: result.to(dtype)


def _printed(reading: str) -> bool:
    if reading not in ("printed", "sound"):
        raise ValueError(f"reading must be 'printed' or 'sound', got {reading!r}")
    return reading == "printed"


def _require_efficacy(weights: Sequence[Scalar]) -> None:
    total = sum(weights)
    tests = [*(weight >= 0 for weight in weights), total > 0, total < torch.inf]
    if not all(bool(test.all()) if isinstance(test, Tensor) else test for test in tests):
        given = [weight.tolist() if isinstance(weight, Tensor) else weight for weight in weights]
        raise ValueError(f"weights must be >= 0 with a finite sum above 0, got {given}")


def _tiny(tensor: Tensor) -> float:
    """The smallest normal number: 1 over it is finite, where 1 over a smaller one may not be."""
    return torch.finfo(tensor.dtype).tiny


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base^exponent, 0^0 = 1; where the slope at base 0 would be infinite, exponent < 1, it is taken as 0."""
    smooth = (base >= _tiny(base)) | (exponent >= 1)
    return torch.where(smooth, base, base.detach()) ** exponent


def _norm(importance: Tensor) -> Tensor:
    half = importance / 2  # so that no difference overflows
    low, span = half.min(), half.max() - half.min()
    flat = span <= _tiny(span)
    return torch.where(flat, 0.5, (half - low) / torch.where(flat, 1.0, span))
