"""One split of a data set: images and their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Args:
        images: (N, C, H, W), or samples of another shape (N, ...). In a :class:`Dataset` they are float32.
        labels: (N,) int64 class numbers in [0, number of classes), or other targets (N, ...).

    Example:
        >>> split = Split(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> len(split), split.take(torch.tensor([3, 0])).labels.tolist()
        (4, [1, 0])
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """Select the images at ``index``: positions in any order, or a mask (N,)."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """Copy the split to ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the types, shapes and values of images and labels."""
        found = hashlib.sha256()
        for tensor in (self.images, self.labels):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).view(np.uint8).data)
        return found.hexdigest()
