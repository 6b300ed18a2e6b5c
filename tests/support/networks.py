"""A network whose forward pass is given as a function."""

from torch import nn


class Network(nn.Module):
    """Parts with names, and a function of the network and its inputs that runs them."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        """What the function returns."""
        return self.run(self, *inputs)
