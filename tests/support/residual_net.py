"""A small residual network, and a snapshot of everything that attaching must leave alone."""

import torch
from torch import nn

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """conv, norm, a sum with the input, an in-place ReLU that is used twice."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        """Sum, then ReLU."""
        return self.relu(self.norm(self.conv(self.relu(x))) + x)


class Added(nn.Module):
    """A residual block that adds to its input in place, and so returns the same tensor as the block before it."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        """Maps."""
        x += self.branch(x.relu())
        return x


class Net(nn.Module):
    """A stem, two residual blocks, a hidden layer, an output layer, and a layer that does not run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.stem_norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Residual(6), Residual(6))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(24, 10)
        self.act = nn.ReLU()
        self.head = nn.Linear(10, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        """Logits."""
        x = self.pool(self.blocks(self.stem_norm(self.stem(x))))
        return self.head(self.act(self.hidden(x.flatten(1))))


def snapshot(model):
    """Return everything that attaching must not change."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [(name, module.training, len(module._forward_hooks), type(module)) for name, module in model.named_modules()],
        [parameter.grad for parameter in model.parameters()],
        torch.get_rng_state(),
    )


def assert_same(one, other):
    (state, modules, gradients, rng), (state_2, modules_2, gradients_2, rng_2) = one, other
    assert list(state) == list(state_2)
    assert all(torch.equal(value, state_2[key]) for key, value in state.items())
    assert modules == modules_2
    assert all(a is b for a, b in zip(gradients, gradients_2, strict=True))
    assert torch.equal(rng, rng_2)
