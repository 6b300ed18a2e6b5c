"""Random numbers, several from each 64-bit draw, and their memory layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad


def random_bytes(x: Tensor) -> Tensor:
    """Return uniform uint8 in the shape and memory layout of x."""
    words = random_words(-(-x.numel() // 8), x.device)
    return laid_out(words.view(torch.uint8)[: x.numel()], x.shape, memory_order(x))


def random_shorts(count: int, device: torch.device) -> Tensor:
    """Return uniform int16 over the full range."""
    if torch.compiler.is_compiling() or in_transform():
        return torch.randint(-(2**15), 2**15, (count,), dtype=torch.int16, device=device)
    return random_words(-(-count // 4), device).view(torch.int16)[:count]


def random_words(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return uniform int64 over the full range. A smaller range would bias the sign bit, and so every eighth byte."""
    return torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None)


def in_transform() -> bool:
    """Whether a transform of torch.func is active (grad, vmap, ...), or torch takes derivatives in forward mode."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def memory_order(x: Tensor) -> list[int]:
    """Return the dimensions of x from the largest stride to the smallest."""
    return sorted(range(x.ndim), key=lambda d: (-x.stride()[d], d))


def laid_out(flat: Tensor, shape: Sequence[int], order: list[int]) -> Tensor:
    """Return a view of flat numbers as a tensor of ``shape`` whose dimensions have this ``order`` in memory."""
    return flat.view([shape[d] for d in order]).permute([order.index(d) for d in range(len(order))])
