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
    """Return everything that attaching and probes must not change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors += [(f"{name}.grad", value.grad) for name, value in tensors if value.grad is not None]
    modules = list(model.named_modules())
    return {
        "tensors": {name: value.detach().clone() for name, value in tensors},
        "gradients": [(name, value.requires_grad) for name, value in tensors],
        "identity": [*map(id, model.modules()), *((id(value), value.data_ptr()) for _, value in tensors)],
        "modules": [(name, type(module), module.training) for name, module in modules],
        "hooks": {name: ([list(getattr(one, kind)) for kind in hooks], sorted(vars(one))) for name, one in modules},
        "rng": torch.get_rng_state(),
    }


def assert_same(before, after):
    for what, old in before.items():
        if what in ("tensors", "rng"):
            torch.testing.assert_close(after[what], old, rtol=0, atol=0, equal_nan=True, msg=what)
        else:
            assert after[what] == old, what
