"""What several processes that train one model have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dropopt.randomness import several_processes


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, as a copy, so that all of them drop at the same rates."""
    value = value.clone()
    if several_processes():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


def means_over_ranks(values: Mapping[str, float | None], device: torch.device) -> dict[str, float | None]:
    """Return the mean of each number over the processes that have it; None where no process has it.

    Args:
        values: the numbers of this process, by name, in the same order in all processes.
        device: that of the model, because some means of communication take no tensors of the CPU.
    """
    if not several_processes():
        return dict(values)
    numbers = [(value or 0.0, float(value is not None)) for value in values.values()]
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return {name: total / count if count else None for name, (total, count) in zip(values, sums.tolist(), strict=True)}


def of_first_rank(value: Tensor) -> Tensor:
    """Return the tensor of the first process in all processes, as a copy, so that all of them change weights alike."""
    value = value.clone()
    if several_processes():
        torch.distributed.broadcast(value, 0)
    return value


def is_sharded(value: Tensor) -> bool:
    """Whether each process holds a part of the tensor only, as of the parameters of FSDP2 and of tensor parallelism."""
    return hasattr(value, "device_mesh")
