"""Efficacy weights within a run: which member deserves a say, from how training is going."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: No share falls below it, whatever floor is asked for: its logarithm is taken.
_LEAST = 1e-9
#: From one share to any other it takes no larger exponent than this; a larger one may overflow.
_FARTHEST = 50.0


def reweighted(
    shares: Sequence[float],  # (M,) on the simplex
    rates: Sequence[float],  # (M,) each member's drop rate, mean over sites
    *,
    val_loss: float,
    train_loss: float,
    step: float,
    floor: float,
) -> list[float]:
    """Eq. (15), "weights are dynamically adjusted based on network performance metrics": one step of
    exponentiated gradient on the reward gap x rate.

    gap = log(val_loss / train_loss), clipped to [-1, 1], is how far the network overfits (> 0: drop more; < 0: it
    underfits, drop less). The blended rate is sum w_m r_m, so a member's credit is its deviation from it,
    (r_m - r) / max |r_m - r|. Members that start at zero stay there; no other falls below ``floor``, nor so low that
    it could not come back.
    """
    blended = sum(w * r for w, r in zip(shares, rates, strict=True))
    deviations = [r - blended for w, r in zip(shares, rates, strict=True)]
    largest = max((abs(d) for w, d in zip(shares, deviations, strict=True) if w > 0), default=0.0)
    if largest < 1e-9 or val_loss <= 0 or train_loss <= 0:
        return list(shares)
    gap = min(1.0, max(-1.0, math.log(val_loss / train_loss)))
    credits = [max(-_FARTHEST, min(_FARTHEST, step * gap * d / largest)) for d in deviations]
    grown = [w * math.exp(credit) if w > 0 else 0.0 for w, credit in zip(shares, credits, strict=True)]
    return with_floor(grown, max(floor, _LEAST))


def with_floor(weights: Sequence[float], floor: float) -> list[float]:
    """``weights`` normalised to sum to 1, none of the positive ones below ``floor``."""
    alive = [w > 0 for w in weights]
    floor = min(floor, 1 / sum(alive))
    low: set[int] = set()
    while True:  # raising some lowers the rest, which may bring more of them under the floor
        free = sum(w for i, w in enumerate(weights) if i not in low)
        room = 1 - floor * len(low)
        shares = [floor if i in low else room * w / free for i, w in enumerate(weights)]
        under = {i for i, share in enumerate(shares) if alive[i] and i not in low and share < floor}
        if not under:
            return shares
        low |= under
        if len(low) == sum(alive):
            return [floor / (floor * len(low)) if a else 0.0 for a in alive]
