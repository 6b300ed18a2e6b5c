"""A small network with an attached engine, helpers to train it and to compare its gradients, and common parameters."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dropopt
from dropopt.config import Baseline, EngineConfig, Pattern
from dropopt.engine.site import DropoutSite

every_pattern = pytest.mark.parametrize("pattern", get_args(Pattern))
every_config = pytest.mark.parametrize(
    "config", [EngineConfig(r0=0.5, w_contextual=0), Baseline(kind="dropout2d", p=0.5)], ids=["engine", "baseline"]
)


class Block(nn.Module):
    """Convolution, norm and an in-place ReLU, which overwrites the output of the site at the norm."""

    def __init__(self, inputs, width):
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        """Activations."""
        return self.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """Two blocks and a head; the second block may be checkpointed."""

    def __init__(self, checkpointing=None):
        super().__init__()
        self.one, self.two = Block(1, 6), Block(6, 8)
        self.head = nn.Linear(8, 3)
        self.checkpointing = checkpointing

    def forward(self, x):
        """Logits."""
        x = self.one(x)
        x = self.two(x) if self.checkpointing is None else checkpoint(self.two, x, **self.checkpointing)
        return self.head(x.mean((2, 3)))


def batch(samples=16, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 1, size, size, generator=generator)
    return images, torch.randint(0, 3, (samples,), generator=generator)


def make(config=None, seed=0, **options):
    torch.manual_seed(seed)
    model = Net(**options).train()
    config = config or EngineConfig(allocation="feature", r0=0.5)
    return model, dropopt.attach(model, config, example=batch()[0], complexity=0.5)


def site_of(pattern, *, features=4, per_feature=False, **options):
    """A site whose features are dropped at the rate 0.4, in blocks of 2."""
    site = DropoutSite(1, features, pattern, 2, per_feature=per_feature or pattern == "own", **options)
    site.p.fill_(0.4)
    if pattern == "own":
        site.set_mixture(torch.full((5,), 0.2), torch.full((5, features), 0.4))
    return site


def train(model, optimizer, steps, seed=0, engine=None):
    for i in range(steps):
        images, labels = batch(seed=seed + i)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if engine is not None:
            engine.step(epoch=i + 1, epochs=steps, val_loss=1.0, train_loss=0.5, val_accuracy=0.5)


def gradients(model, seed=1, dtype=None, device="cpu"):
    images, labels = (t.to(device) for t in batch())
    torch.manual_seed(seed)
    model.zero_grad()
    with torch.autocast(device, dtype, enabled=dtype is not None):
        loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def sites_of(model):
    return [h.__self__ for module in model.modules() for h in module._forward_hooks.values()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
