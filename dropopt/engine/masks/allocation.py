"""From a site's budget to one drop rate per feature, without changing how much is dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from dropopt.config import P_MAX


def share_out(budget: Tensor | float, preference: Tensor) -> Tensor:
    """Rates p (C,) proportional to ``preference`` (C,) >= 0, capped at P_MAX, with mean equal to ``budget``.

    What a capped feature cannot take goes to the others. A feature of preference 0 is never dropped, so the
    highest budget that can be met is P_MAX times the share of the others; beyond it they all take P_MAX. No
    preference at all (zeros) is the uniform one. A filling of vessels: exact, no iteration.
    """
    preference = preference.to(torch.float64)
    if not bool((preference > 0).any()):
        preference = torch.ones_like(preference)
    count = preference.numel()
    wanted = torch.as_tensor(budget, dtype=torch.float64, device=preference.device).clamp(0, P_MAX) * count
    order = preference.sort(descending=True).values
    rest = order.flip(0).cumsum(0).flip(0)  # rest[k]: preference left when the k largest are capped
    capped = torch.arange(count, dtype=torch.float64, device=order.device)
    scale = (wanted - P_MAX * capped) / rest.clamp(min=torch.finfo(torch.float64).tiny)
    fits = (scale * order <= P_MAX) & (rest > 0)  # the largest of the uncapped stays under the cap
    if not bool(fits.any()):
        return P_MAX * (preference > 0).to(torch.float64)
    return (preference * scale[fits.to(torch.int8).argmax()]).clamp(0, P_MAX)
