"""What several processes that train one model have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, as a copy, so that all of them drop at the same rates."""
    value = value.clone()
    if _several():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


def of_first_rank(value: Tensor) -> Tensor:
    """Return the tensor of the first process in all processes, as a copy, so that all of them change weights alike."""
    value = value.clone()
    if _several():
        torch.distributed.broadcast(value, 0)
    return value


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
