"""The paper's equations in order: one pure function each.

"Enhancing Efficiency and Regularization in Convolutional Neural Networks: Strategies for Optimized Dropout".
Rates (r0, r, p) are **drop** probabilities; d is relative depth, t the progress of training, I the importance of a
feature, C the number of features of a layer. Where the paper's formula and its prose disagree there are two readings,
and the keyword ``reading`` chooses one; any other value raises ``ValueError``:

- ``"printed"``: the formula as printed, clipped to its legal range;
- ``"sound"``: the smallest change to the formula that does what the prose says.

Every function takes Python numbers and tensors of any float dtype and device, mixed, and broadcasts them. Numbers alone
give a float, computed in float64. Otherwise the result has the dtype of torch's promotion; half precision is computed
in float32 and rounded once. Reductions run over the whole layer, which is every element of the tensor; a number is a
layer with one feature.

A Python number outside the documented range raises ``ValueError``, such as ``r0 must be in [0, 1], got 1.3``. Where no
range is documented, every finite number is allowed. Values of tensors are not checked, so that no call waits for a
device. Within the ranges no value is NaN and no gradient is infinite (float16 may overflow): where t^theta or log P has
a pole, its gradient is 0.
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


# -- eq. (1), (2): adaptive dropout
def adaptive_rate(
    r0: Scalar, alpha: Scalar, depth: Scalar, progress: Scalar, theta_depth: Scalar, theta_epoch: Scalar
) -> Scalar:
    """Eq. (1): drop rate of a layer, by its depth and the progress of training.

        r0 (1 - alpha d^theta_depth t^theta_epoch), clipped to [0, 1]

    The rate is r0 at t = 0. Where alpha > 0, which is the paper's case, it falls from there, faster in deeper layers.
    Where alpha < 0 it rises instead, most in the deepest layer at the end of training. The printed formula has a stray
    parenthesis; it is read so that "early in training, the dropout rate is closer to r0".

    Args:
        r0: base rate, in [0, 1].
        alpha: strength of the decay, or of the growth where it is negative. Within [0, 1], no clipping occurs.
        depth: d = d_layer / D_max, in [0, 1].
        progress: t = e_current / E_total, in [0, 1].
        theta_depth: exponent of depth, >= 0.
        theta_epoch: exponent of progress, >= 0.

    Returns:
        The drop rate, in [0, 1].

    Raises:
        ValueError: if a number is outside its range.

    Source: "Adaptive Dropout in CNNs".

    Example:
        >>> adaptive_rate(0.5, 0.5, depth=1.0, progress=0.5, theta_depth=1.0, theta_epoch=1.0)
        0.375
    """
    (r0, alpha, d, t, theta_d, theta_t), lower = _lift(
        r0=r0, alpha=alpha, depth=depth, progress=progress, theta_depth=theta_depth, theta_epoch=theta_epoch
    )
    return lower((r0 * (1 - alpha * _power(d, theta_d) * _power(t, theta_t))).clamp(0, 1))


def adjusted_alpha(alpha: Scalar, loss: Scalar, delta: Scalar, threshold: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (2): alpha of eq. (1), adjusted to the validation loss.

        printed:  sigmoid(delta (loss - threshold))
        sound:    alpha sigmoid(delta (loss - threshold))

    Its magnitude rises with the loss where delta > 0. In the printed reading alpha, with its sign, has no effect once
    there is a validation loss; eq. (2) writes Phi(alpha, loss, delta), so in the sound reading the result depends on
    alpha and keeps its sign.

    Args:
        alpha: strength of eq. (1), finite.
        loss: validation loss, finite.
        delta: sensitivity to the loss, finite.
        threshold: lambda, the loss where the sigmoid is 1/2, finite.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The adjusted alpha: in [0, 1] if printed, between 0 and alpha if sound.

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "Dynamic alpha Adjustment".

    Example:
        >>> adjusted_alpha(0.6, loss=1.0, delta=4.0, threshold=1.0, reading="sound")
        0.3
    """
    (alpha, loss, delta, threshold), lower = _lift(alpha=alpha, loss=loss, delta=delta, threshold=threshold)
    gate = torch.sigmoid(delta * (loss - threshold))
    return lower(gate + 0 * alpha if _printed(reading) else alpha * gate)  # 0 * alpha broadcasts to alpha's shape


# -- eq. (3)-(8): structured and spatially aware dropout
def threshold_mask(importance: Scalar, r: Scalar) -> Scalar:
    """Eq. (3), (4): keep mask that drops features of low importance.

        0 where importance <= r, 1 otherwise

    It has no gradient.

    Args:
        importance: F of each feature, any shape, finite.
        r: threshold, finite.

    Returns:
        The mask, 0 or 1, in the broadcast shape.

    Raises:
        ValueError: if a number is not finite.

    Source: "Structured Dropout in CNNs".

    Example:
        >>> threshold_mask(torch.tensor([0.2, 0.5, 0.9]), 0.5)
        tensor([0., 0., 1.])
    """
    (importance, r), lower = _lift(importance=importance, threshold=r)
    return lower(torch.where(importance <= r, 0.0, 1.0))


def random_mask(noise: Scalar, structure: Scalar, r: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (5), (6), and with a spatial S eq. (7), (8): random keep mask, restricted by a structure S.

        printed:  [noise < r] S        S = 1: may be kept
        sound:    1 - [noise < r] S    S = 1: may be dropped

    0 means dropped, as in eq. (4). So r is a keep rate in the printed reading, and a drop rate in the sound one.

    Args:
        noise: uniform draws, in [0, 1).
        structure: S, 0 or 1; broadcasts with noise.
        r: rate, in [0, 1].
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The mask, 0 or 1, in the broadcast shape.

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "Structured Dropout in CNNs" and "Spatially Aware Dropout".

    Example:
        >>> noise, structure = torch.tensor([0.1, 0.1, 0.8]), torch.tensor([1.0, 0.0, 1.0])
        >>> random_mask(noise, structure, 0.5, reading="sound")
        tensor([0., 1., 1.])
    """
    (noise, structure, r), lower = _lift(noise=noise, structure=structure, r=r)
    drawn = torch.where(noise < r, structure, 0.0)
    return lower(drawn if _printed(reading) else 1 - drawn)


def structured_rate(r: Scalar, structure: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (15), its structured member: the fraction that :func:`random_mask` drops on average.

        printed:  1 - r mean(S)
        sound:    r mean(S)

    The paper uses r_structured without defining it.

    Args:
        r: rate, in [0, 1].
        structure: S, 0 or 1, any shape; its mean is taken over all elements.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The drop rate, in [0, 1], in the shape of r.

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "Integrated Dropout in CNNs".

    Example:
        >>> structured_rate(0.5, torch.tensor([1.0, 0.0, 1.0, 1.0]), reading="sound")
        tensor(0.3750)
    """
    (r, structure), lower = _lift(r=r, structure=structure)
    drawn = r * structure.mean()
    return lower(1 - drawn if _printed(reading) else drawn)


# -- eq. (9)-(11): contextual dropout
def complexity_factor(complexity: Scalar, theta: Scalar) -> Scalar:
    """Eq. (9)-(11), g: how the complexity of the data scales the contextual rate.

        1 - exp(-theta complexity)

    It rises with both arguments.

    Args:
        complexity: D of the data set, >= 0.
        theta: Theta, gain, >= 0.

    Returns:
        The factor, in [0, 1].

    Raises:
        ValueError: if a number is outside its range.

    Source: "Contextual Dropout".

    Example:
        >>> round(complexity_factor(0.5, 2.0), 4)
        0.6321
    """
    (complexity, theta), lower = _lift(complexity=complexity, theta=theta)
    return lower(-torch.expm1(-theta * complexity))


def duration_factor(duration: Scalar, midpoint: Scalar, phi: Scalar) -> Scalar:
    """Eq. (9)-(11), h: how the duration of training scales the contextual rate.

        1 - 1 / (1 + exp(-phi (duration - midpoint)))

    It is 1/2 at the midpoint.

    Args:
        duration: T, finite.
        midpoint: T_mid, in the unit of duration, finite.
        phi: Phi, finite; the factor rises with duration where phi < 0 and falls where phi > 0.

    Returns:
        The factor, in [0, 1].

    Raises:
        ValueError: if a number is not finite.

    Source: "Contextual Dropout".

    Example:
        >>> duration_factor(0.5, 0.5, -5.0)
        0.5
    """
    (duration, midpoint, phi), lower = _lift(duration=duration, midpoint=midpoint, phi=phi)
    return lower(torch.sigmoid(-phi * (duration - midpoint)))  # 1 - sigmoid(x) would round to 0 for moderate x


def performance_factor(performance: Scalar, psi: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (9)-(11), i: how performance scales the contextual rate.

        printed:  psi log(performance)
        sound:    max(0, 1 + psi log(performance))

    The printed factor may be negative: an accuracy below 1 gives a positive factor only where psi < 0. The sound factor
    is never negative, and it is 1 at performance 1. A performance of 0 counts as the smallest normal number.

    Args:
        performance: P, an accuracy, a loss or a ratio of losses, >= 0.
        psi: Psi, gain, finite.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The factor: any number if printed, >= 0 if sound.

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "Contextual Dropout".

    Example:
        >>> performance_factor(1.0, 0.2, reading="sound"), performance_factor(1.0, 0.2, reading="printed")
        (1.0, 0.0)
    """
    (performance, psi), lower = _lift(performance=performance, psi=psi)
    feedback = psi * torch.log(performance.clamp(min=_tiny(performance)))
    return lower(feedback if _printed(reading) else (1 + feedback).clamp(min=0))


def contextual_rate(r0: Scalar, complexity: Scalar, duration: Scalar, performance: Scalar) -> Scalar:
    """Eq. (9)-(11): drop rate from the context, a product of three factors.

        r0 g h i, clipped to [0, 1]

    Args:
        r0: base rate, in [0, 1].
        complexity: g, the value of :func:`complexity_factor`, in [0, 1].
        duration: h, the value of :func:`duration_factor`, in [0, 1].
        performance: i, the value of :func:`performance_factor`, which may be negative.

    Returns:
        The drop rate, in [0, 1].

    Raises:
        ValueError: if r0 is a number outside [0, 1] or another number is not finite.

    Source: "Contextual Dropout".

    Example:
        >>> contextual_rate(0.5, complexity=1.0, duration=0.5, performance=1.0)
        0.25
    """
    (r0, g, h, i), lower = _lift(r0=r0, g=complexity, h=duration, i=performance)
    return lower((r0 * g * h * i).clamp(0, 1))


# -- eq. (12)-(16): PFID and the integrated rate
def probabilistic_importance(mean: Scalar, variance: Scalar) -> Scalar:
    """Eq. (12): probabilistic importance, from the statistics of a layer's activations.

        PI_i = NormalCDF((m_i - mean(m)) / sqrt(v_i + 1e-12))

    This is the probability that feature i, taken as Gaussian, exceeds the mean activation of the layer. The paper gives
    PI no formula.

    Args:
        mean: m, (C,), running mean of each feature's activation, finite.
        variance: v, (C,), its running variance, >= 0; a value that rounding left below 0 counts as 0.

    Returns:
        The importances, (C,), in [0, 1]; 1/2 for a single feature.

    Raises:
        ValueError: if a number is outside its range.

    Source: "PFID in CNNs".

    Example:
        >>> probabilistic_importance(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor([0.1587, 0.5000, 0.8413])
    """
    (mean, variance), lower = _lift(mean=mean, variance=variance)
    return lower(torch.special.ndtr((mean - mean.mean()) * (variance.clamp(min=0) + 1e-12).rsqrt()))


def feature_rate(r0: Scalar, weight: Scalar, importance: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (13): drop rate of each feature.

        printed:  r0 (1 - exp(-weight importance))
        sound:    r0 exp(-weight importance)

    The printed rate rises with importance; the sound one falls, as in the prose: "features with higher importance have
    a significantly reduced dropout rate".

    Args:
        r0: base rate, in [0, 1].
        weight: lambda_epoch, >= 0.
        importance: I, (C,), >= 0; a negative value counts as 0.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The drop rates, (C,), in [0, r0].

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "PFID in CNNs".

    Example:
        >>> feature_rate(0.5, 1.0, torch.tensor([0.0, 1.0]), reading="sound")
        tensor([0.5000, 0.1839])
    """
    (r0, weight, importance), lower = _lift(r0=r0, weight=weight, importance=importance)
    exponent = -(weight * importance).clamp(min=0)
    return lower(-r0 * torch.expm1(exponent) if _printed(reading) else r0 * torch.exp(exponent))


def epoch_weight(initial: Scalar, kappa: Scalar, progress: Scalar, theta: Scalar) -> Scalar:
    """Eq. (14): the importance weight lambda_epoch of eq. (13) and (16).

        initial (1 + kappa t^theta)

    It grows from initial at t = 0 to initial (1 + kappa) at t = 1.

    Args:
        initial: lambda_init, finite.
        kappa: growth, finite.
        progress: t = e_current / E_total, in [0, 1].
        theta: exponent of progress, >= 0.

    Returns:
        The weight.

    Raises:
        ValueError: if a number is outside its range.

    Source: "Feature Importance Weight Adjustment in CNNs".

    Example:
        >>> epoch_weight(0.5, kappa=3.0, progress=0.5, theta=1.0)
        1.25
    """
    (initial, kappa, t, theta), lower = _lift(initial=initial, kappa=kappa, progress=progress, theta=theta)
    return lower(initial * (1 + kappa * _power(t, theta)))


def integrated_rate(rates: Sequence[Scalar] | Tensor, weights: Sequence[Scalar] | Tensor) -> Scalar:
    """Eq. (15): drop rate of several methods together, the mean of their rates weighted by efficacy.

        sum(w r) / sum(w)

    Args:
        rates: one rate per method, clipped to [0, 1] first; their shapes broadcast.
        weights: one efficacy weight per method, >= 0, finite, not all 0. Weights in tensors are checked as well, so
            pass numbers to avoid waiting for a device.

    Returns:
        The drop rate, in [0, 1].

    Raises:
        ValueError: if the lengths differ, a weight is negative or not finite, or all weights are 0.

    Source: "Integrated Dropout in CNNs".

    Example:
        >>> integrated_rate([0.1, 0.5], [3.0, 1.0])
        0.2
    """
    rates, weights = list(rates), list(weights)
    if len(rates) != len(weights):
        raise ValueError(f"rates and weights must have the same length, got {len(rates)} and {len(weights)}")
    _require_efficacy(weights)
    named = {f"rates[{i}]": rate for i, rate in enumerate(rates)}
    lifted, lower = _lift(**named, **{f"weights[{i}]": weight for i, weight in enumerate(weights)})
    r, w = lifted[: len(rates)], lifted[len(rates) :]
    total = reduce(torch.add, w)  # dividing first gives a single method its own rate to the last bit
    return lower(reduce(torch.add, (w_m / total * r_m.clamp(0, 1) for w_m, r_m in zip(w, r, strict=True))))


def pfid_rate(r0: Scalar, weight: Scalar, importance: Scalar, *, reading: Reading) -> Scalar:
    """Eq. (16): PFID drop rate of a layer.

        printed:  r0 prod_i (1 - weight I_i)
        sound:    r0 prod_i (1 - weight I_i / sum(I))

    Each factor is clipped to [0, 1]. The printed product vanishes in wide layers. The sound product uses each feature's
    fraction of the layer's importance, so that neither width nor scale matters; it is r0 where sum(I) = 0.

    Args:
        r0: base rate, in [0, 1].
        weight: lambda_epoch, >= 0.
        importance: I, (C,), >= 0; a negative value counts as 0. The product is taken over all elements.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The drop rate, in [0, r0], in the shape of r0.

    Raises:
        ValueError: if a number is outside its range or ``reading`` is unknown.

    Source: "PFID Dropout Rate".

    Example:
        >>> pfid_rate(0.5, 1.0, torch.tensor([1.0, 1.0]), reading="sound")
        tensor(0.1250)
    """
    (r0, weight, importance), lower = _lift(r0=r0, weight=weight, importance=importance)
    importance = importance.clamp(min=0)
    total = importance.sum()
    share = importance if _printed(reading) else importance / torch.where(total > _tiny(total), total, 1.0)
    return lower(r0 * (1 - weight * share).clamp(0, 1).prod())


# -- lemma and weight update: rates of single features
def normalised(importance: Scalar) -> Scalar:
    """Lemma: importance on the scale of its layer.

        norm(I) = (I - min(I)) / (max(I) - min(I))

    Args:
        importance: I, (C,), finite.

    Returns:
        The normalised importance, (C,), in [0, 1]; 1/2 where all are equal.

    Raises:
        ValueError: if a number is not finite.

    Source: "Lemma (PFID Model)".

    Example:
        >>> normalised(torch.tensor([1.0, 2.0, 5.0]))
        tensor([0.0000, 0.2500, 1.0000])
    """
    (importance,), lower = _lift(importance=importance)
    return lower(_norm(importance))


def importance_rate(alpha: Scalar, importance: Scalar, *, reading: Reading) -> Scalar:
    """Lemma: drop rate p_ij of each feature, lower for more important features.

        printed:  1 - alpha norm(I), clipped to [0, 1]
        sound:    alpha (1 - norm(I)), clipped to [0, 1]

    In the printed reading a higher alpha means less dropout, and the least important feature is always dropped. In the
    sound one "a higher alpha means more dropout", and the most important feature is never dropped.

    Args:
        alpha: strength. Within [0, 1], no clipping occurs.
        importance: I, (C,), finite.
        reading: ``"printed"`` or ``"sound"``.

    Returns:
        The drop rates, (C,), in [0, 1].

    Raises:
        ValueError: if a number is not finite or ``reading`` is unknown.

    Source: "Lemma (PFID Model)".

    Example:
        >>> importance_rate(0.5, torch.tensor([1.0, 2.0, 5.0]), reading="sound")
        tensor([0.5000, 0.3750, 0.0000])
    """
    (alpha, importance), lower = _lift(alpha=alpha, importance=importance)
    norm = _norm(importance)
    return lower((1 - alpha * norm if _printed(reading) else alpha * (1 - norm)).clamp(0, 1))


def dropped_gradient(gradient: Scalar, noise: Scalar, p: Scalar) -> Scalar:
    """Weight update: Drop(p) dE/dW, the gradient with some entries dropped and the others not rescaled.

        0 where noise < p, gradient elsewhere

    Args:
        gradient: dE/dW, (C, ...).
        noise: uniform draws in [0, 1): (C, ...), or (C,) to drop whole output features.
        p: drop probability of each output feature, (C,), in [0, 1].

    Returns:
        The masked gradient, (C, ...), in the gradient's dtype. A dropped entry is 0 even where the gradient is not
        finite.

    Raises:
        ValueError: if a number is outside its range.

    Source: "Integration into Backpropagation Algorithm".

    Example:
        >>> dropped_gradient(torch.ones(2, 2), noise=torch.tensor([0.2, 0.8]), p=torch.tensor([0.5, 0.5]))
        tensor([[0., 0.],
                [1., 1.]])
    """
    (dense, noise, p), lower = _lift(gradient=gradient, noise=noise, p=p)
    noise, p = (x.reshape(x.shape + (1,) * (dense.dim() - x.dim())) for x in (noise, p))
    kept = torch.where(noise >= p, dense, 0.0)
    return kept.to(gradient.dtype) if isinstance(gradient, Tensor) else lower(kept)


# -- arguments: legal ranges and working precision
_MAX = sys.float_info.max
_FINITE = ("finite", -_MAX, _MAX)
_LEGAL = dict.fromkeys(("r0", "r", "p", "depth", "progress"), ("in [0, 1]", 0.0, 1.0)) | dict.fromkeys(
    ("theta", "theta_depth", "theta_epoch", "complexity", "performance", "variance", "weight"),
    ("finite and >= 0", 0.0, _MAX),
)


def _lift(**values: Scalar) -> tuple[list[Tensor], Callable[[Tensor], Scalar]]:
    """Check the arguments; return them as tensors of one working dtype, and the conversion of a result to its type."""
    for name, value in values.items():
        allowed, low, high = _LEGAL.get(name, _FINITE)
        if not isinstance(value, Tensor) and not low <= value <= high:  # NaN fails both comparisons
            raise ValueError(f"{name} must be {allowed}, got {value}")
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    if not tensors:
        return [torch.tensor(value, dtype=torch.float64, device="cpu") for value in values.values()], float
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    voters = [tensor for tensor in floating if tensor.dim()] or floating  # as in torch, 0-dim tensors do not widen
    dtype = reduce(torch.promote_types, (t.dtype for t in voters)) if voters else torch.get_default_dtype()
    working = dtype if dtype.itemsize >= 4 else torch.float32  # bfloat16 would round 1 - 1/512 to 1
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
    """Return the smallest normal number, the smallest whose reciprocal is certainly finite."""
    return torch.finfo(tensor.dtype).tiny


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return base^exponent with 0^0 = 1; at base 0 and exponent < 1, the infinite slope is replaced by 0."""
    smooth = (base >= _tiny(base)) | (exponent >= 1)
    return torch.where(smooth, base, base.detach()) ** exponent


def _norm(importance: Tensor) -> Tensor:
    half = importance / 2  # halved, so that no difference overflows
    low, span = half.min(), half.max() - half.min()
    flat = span <= _tiny(span)
    return torch.where(flat, 0.5, (half - low) / torch.where(flat, 1.0, span))
