"""How a site's drop rate is distributed over its features: one rate per feature, with the site's rate as mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from dropopt import equations
from dropopt.config import METHODS, P_MAX, EngineConfig


def eligible(importance: Tensor, threshold: float) -> Tensor:
    """S of eq. (5), (6), shape (C,): 1 where the threshold mask of eq. (4) drops, 0 elsewhere.

    ``importance`` is normalised to [0, 1]. Where the mask drops no feature, all are eligible.
    """
    dropped = 1 - cast("Tensor", equations.threshold_mask(importance, threshold))
    return dropped if bool(dropped.any()) else torch.ones_like(dropped)


def proportions(config: EngineConfig, *, alpha: float, progress: float, importance: Tensor) -> Tensor:
    """Return the proportions, shape (C,), in which the site's rate is distributed over features.

    Args:
        config: ``allocation`` and ``pattern`` choose the rule.
        alpha: alpha of eq. (2). Its sign, which says how a rate changes with depth and time, has no meaning for the
            lemma's allocation and is ignored.
        progress: progress of training, in [0, 1].
        importance: (C,) normalised importance, in [0, 1].
    """
    found = torch.ones_like(importance)
    if config.allocation == "feature":
        found = by_importance(config, progress, importance)
    elif config.allocation == "importance":  # the lemma
        strength = abs(alpha)
        if config.reading == "sound" and not strength:
            strength = 1.0  # the sound rate is proportional to alpha, so the proportions are the same for every alpha
        found = cast("Tensor", equations.importance_rate(strength, importance, reading=config.reading))
    if config.pattern == "structured":  # eq. (5), (6)
        allowed = eligible(importance, config.structured_threshold)
        restricted = found * allowed
        found = restricted if bool(restricted.any()) else allowed
    return found


def by_importance(config: EngineConfig, progress: float, importance: Tensor) -> Tensor:
    """Eq. (13) for r0 = 1: the proportions, shape (C,), in which rates follow the importance of features."""
    weight = equations.epoch_weight(config.lambda_init, config.kappa, progress, config.theta)
    return cast("Tensor", equations.feature_rate(1.0, weight, importance, reading=config.reading))


def mixture_rates(config: EngineConfig, members: Mapping[str, float], *, progress: float, importance: Tensor) -> Tensor:
    """Return the rates (M, C) of each method's features in its own pattern; the mean of a row is the method's rate.

    Args:
        config: the engine's settings.
        members: each method's rate at the site, in [0, 1].
        progress: progress of training, in [0, 1].
        importance: (C,) normalised importance, in [0, 1].
    """
    uneven = {
        "structured": eligible(importance, config.structured_threshold),
        "pfid": by_importance(config, progress, importance),
    }
    even = torch.ones_like(importance)
    return torch.stack([share_out(members[m], uneven.get(m, even)) for m in METHODS]).to(importance)


def share_out(budget: Tensor | float, proportions: Tensor) -> Tensor:
    """Return drop rates (C,) proportional to ``proportions``, at most P_MAX, whose mean is ``budget``.

    The excess of a capped feature goes to the others. The solution is exact and needs no iteration.

    Args:
        budget: mean drop rate, in [0, 1].
        proportions: (C,) non-negative proportions. A feature with 0 is never dropped; all zeros count as all ones.

    Returns:
        The rates, float64. Where the budget exceeds P_MAX times the fraction of features with a positive proportion,
        each of these has P_MAX.
    """
    proportions = proportions.to(torch.float64)
    if not bool((proportions > 0).any()):
        proportions = torch.ones_like(proportions)
    count = proportions.numel()
    wanted = torch.as_tensor(budget, dtype=torch.float64, device=proportions.device) * count
    order = proportions.sort(descending=True).values
    rest = order.flip(0).cumsum(0).flip(0)  # rest[k]: sum of proportions when the k largest are capped
    capped = torch.arange(count, dtype=torch.float64, device=order.device)
    scale = (wanted - P_MAX * capped) / rest.clamp(min=torch.finfo(torch.float64).tiny)
    fits = (scale * order <= P_MAX) & (rest > 0)  # the largest uncapped feature stays below the cap
    if not bool(fits.any()):
        return P_MAX * (proportions > 0).to(torch.float64)
    return (proportions * scale[fits.to(torch.int8).argmax()]).clamp(0, P_MAX)
