"""Efficacy weights of eq. (15): how much each member counts, and how that may adapt to training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dropopt.config import METHODS, STAGES, EngineConfig

#: Smallest share of a member, whatever ``efficacy_floor`` is: the logarithm of a share is taken.
_MIN_SHARE = 1e-9
#: Rates that differ by less are equal: some are rounded to float32, others are not.
_ROUNDING = 2e-7
#: Largest exponent of one update; a larger one might overflow.
_MAX_EXPONENT = 50.0


class EfficacyWeights:
    """The current weights: those of the configuration for the stage of training, times what was learned.

    Attributes:
        tilt: logarithm of the factor on each member's weight, in the order of METHODS; changed by :meth:`learn`.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.tilt = [0.0] * len(METHODS)

    def shares(self, progress: float) -> list[float]:
        """Return the weights at ``progress`` in [0, 1], in the order of METHODS, summing to 1."""
        stage = min(int(progress * len(STAGES)), len(STAGES) - 1)
        tilted = [w * math.exp(tilt) for w, tilt in zip(self.config.weights(stage), self.tilt, strict=True)]
        return [w / sum(tilted) for w in tilted]

    def learn(self, progress: float, rates: Sequence[float], *, val_loss: float, train_loss: float) -> None:
        """Adapt the weights to the generalisation gap; ``rates`` are the members' mean drop rates over sites."""
        old = self.shares(progress)
        new = reweighted(
            old,
            rates,
            val_loss=val_loss,
            train_loss=train_loss,
            step=self.config.efficacy_step,
            floor=self.config.efficacy_floor,
        )
        self.tilt = [tilt + math.log(n / o) if o > 0 else tilt for tilt, n, o in zip(self.tilt, new, old, strict=True)]


def reweighted(
    shares: Sequence[float], rates: Sequence[float], *, val_loss: float, train_loss: float, step: float, floor: float
) -> list[float]:
    """One step of exponentiated gradient on the generalisation gap.

    The paper says that "weights are dynamically adjusted based on network performance metrics", but not how. Here:

        gap      = log(val_loss / train_loss), clipped to [-1, 1]
        r        = sum_m w_m r_m
        credit_m = (r_m - r) / max_m |r_m - r|
        w_m     <- w_m exp(step gap credit_m), normalised

    A gap above 0 means overfitting, and members that drop more than the blend gain weight. Where the gap is below 0,
    members that drop less gain weight.

    Args:
        shares: (M,) weights, non-negative, summing to 1. A member with share 0 keeps it.
        rates: (M,) each member's drop rate, averaged over sites.
        val_loss: validation loss, > 0.
        train_loss: training loss, > 0. Where either loss is not positive, the shares do not change.
        step: step size.
        floor: smallest share of a member whose share is not 0.

    Returns:
        The new shares, summing to 1.
    """
    pairs = list(zip(shares, rates, strict=True))
    blended = sum(w * r for w, r in pairs)
    largest = max(abs(r - blended) for w, r in pairs if w > 0)
    if largest < _ROUNDING or val_loss <= 0 or train_loss <= 0:
        return list(shares)
    gap = min(1.0, max(-1.0, math.log(val_loss / train_loss)))
    exponents = (max(-_MAX_EXPONENT, min(_MAX_EXPONENT, step * gap * (r - blended) / largest)) for r in rates)
    grown = [w * math.exp(exponent) for w, exponent in zip(shares, exponents, strict=True)]
    return with_floor(grown, max(floor, _MIN_SHARE))


def with_floor(weights: Sequence[float], floor: float) -> list[float]:
    """Return ``weights`` normalised to sum to 1, with every positive one at least ``floor``."""
    positive = [w > 0 for w in weights]
    floor = min(floor, 1 / sum(positive))
    raised: set[int] = set()
    while True:  # raising some weights lowers the others, which may push more of them below the floor
        free = sum(w for i, w in enumerate(weights) if i not in raised)
        room = 1 - floor * len(raised)
        shares = [floor if i in raised else room * w / free for i, w in enumerate(weights)]
        below = {i for i, share in enumerate(shares) if positive[i] and i not in raised and share < floor}
        if not below:
            return shares
        raised |= below
        if len(raised) == sum(positive):
            return [1 / len(raised) if p else 0.0 for p in positive]
