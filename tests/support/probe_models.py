"""Networks, batches and places that the tests of probes and of relevance share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dropopt.engine.places.find import survey
from dropopt.engine.places.place import Place

CLASSES = 5


def plain(bias: bool = True, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolutions, pooling and dense layers, which every LRP library supports."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=bias), act(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, bias=bias), act()),
        *(nn.Flatten(), nn.Linear(12, 6, bias=bias), act(), nn.Linear(6, CLASSES, bias=bias)),
    )


class Functional(nn.Module):
    """Functional code, a shared activation, in-place sums, a gate and a strided skip, which no canoniser supports."""

    def __init__(self, inplace: bool = True, recompute: bool | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(6)
        self.gate = nn.Linear(6, 6)
        self.skip = nn.Conv2d(6, 4, 1, stride=2)
        self.deep = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.norm3 = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace)
        self.head = nn.Linear(4, CLASSES)
        self.recompute = recompute  # None, or use_reentrant of a checkpoint around the block

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.act(self.norm1(self.stem(x)))
        x = self.block(x) if self.recompute is None else checkpoint(self.block, x, use_reentrant=self.recompute)
        y = self.norm3(self.deep(x))
        y = F.relu(torch.add(y, self.skip(x)), inplace=self.act.inplace)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))

    def block(self, x: Tensor) -> Tensor:
        """A residual block with squeeze-excitation."""
        y = self.norm2(self.conv(x))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3)))).view(len(y), -1, 1, 1).expand_as(y)
        y += x
        return self.act(y)


class Tokens(nn.Module):
    """Features on the last dimension, (N, L, D), from token indices, which have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(F.gelu(self.mix(self.norm(self.embed(x)))).mean(1))


def worn(model: nn.Module, *, bias: bool = True) -> nn.Module:
    """Set statistics and scales as after training, of both signs; without ``bias``, nothing absorbs relevance."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(std=0.2 * bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::3] *= -1
            nn.init.normal_(module.bias, std=0.2)
        if not bias and isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)
    return model


def batch(n: int = 4, size: int = 8, channels: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(n, channels, size, size), torch.arange(n) % CLASSES


def has_weights(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm)


def places_of(model: nn.Module, images: Tensor, sites: Any = has_weights) -> dict[str, Place]:
    return {p.name: p for p in survey(model, sites, images).places}
