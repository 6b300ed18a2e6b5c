"""One split of a data set: images and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dropopt.inputs import Inputs, each, parts


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in memory.

    Args:
        images: (N, C, H, W), or samples of another shape (N, ...); a tuple or a dictionary of such tensors where a
            network takes several. In a :class:`Dataset` they are float32.
        labels: (N,) int64 class numbers in [0, number of classes), or other targets (N, ...).

    Example:
        >>> split = Split(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> len(split), split.take(torch.tensor([3, 0])).labels.tolist()
        (4, [1, 0])
    """

    images: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tensor(self) -> Tensor:
        """The images, where a network takes one tensor.

        Raises:
            TypeError: It takes several.
        """
        if not isinstance(self.images, Tensor):
            raise TypeError("these samples have several inputs")
        return self.images

    @property
    def sample(self) -> Split:
        """The split itself; of a :class:`Stream`, some samples in memory."""
        return self

    def take(self, index: Tensor | slice) -> Split:
        """Select the images at ``index``: positions in any order, a slice, or a mask (N,)."""
        return Split(each(lambda part: part[index], self.images), self.labels[index])

    def head(self, count: int) -> Split:
        """The first ``count`` images."""
        return self.take(slice(count))

    def batches(self, size: int) -> Iterator[Split]:
        """The images in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def to(self, device: torch.device | str) -> Split:
        """Copy the split to ``device``."""
        return Split(each(lambda part: part.to(device), self.images), self.labels.to(device))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the types, shapes and values of images and labels."""
        found = hashlib.sha256()
        for tensor in (*parts(self.images).values(), self.labels):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).view(np.uint8).data)
        return found.hexdigest()
