"""One split of a data set: images and their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels."""

    images: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,) int64, in [0, classes)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images at ``index``, in its order."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """The same on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """SHA-256 of type, shape and values of images and labels."""
        found = hashlib.sha256()
        for tensor in (self.images, self.labels):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).view(np.uint8).data)
        return found.hexdigest()
