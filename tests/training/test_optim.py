"""The optimizer and its learning rate."""

import math

import pytest
import torch
from torch import nn
from toy import network, recipe, toy

from dropopt.config import ConfigError
from dropopt.training import fit
from dropopt.training.optim import learning_rate, make_optimizer


class TestOptimizer:
    """Parameter groups and learning rates."""

    def test_norms_and_biases_do_not_decay(self):
        """Parameters of two or more dimensions are in the group with weight decay, all others in the group without."""
        model = network()
        for kind in ("sgd", "adamw"):
            decays, spared = make_optimizer(model, recipe(optimizer=kind, weight_decay=0.1)).param_groups
            assert (decays["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
            assert {id(p) for p in decays["params"]} == {id(p) for p in model.parameters() if p.ndim > 1}
            assert len(decays["params"]) + len(spared["params"]) == len(list(model.parameters()))

    def test_frozen_parameters_are_unchanged(self):
        """Parameters that require no gradient are not trained; a network without any other is refused."""
        model, before = network(), network()
        model[0].weight.requires_grad_(False)
        fit(model, None, toy(), recipe(epochs=1))
        assert torch.equal(model[0].weight, before[0].weight)
        assert not torch.equal(model[4].weight, before[4].weight)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
            fit(model, None, toy(), recipe())

    def test_schedules(self):
        """One cycle is PyTorch's up to its rounding of steps; cosine falls from lr to 0; constant stays."""
        steps = 1001
        one, cosine, constant = (recipe(schedule=name, lr=0.2) for name in ("onecycle", "cosine", "constant"))
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, cycle_momentum=False)
        for step in range(steps - 1):
            assert abs(learning_rate(one, step / steps) - theirs.get_last_lr()[0]) < 1e-3
            optimizer.step()
            theirs.step()
        assert learning_rate(cosine, 0.0) == 0.2
        assert math.isclose(learning_rate(cosine, 0.5), 0.1)
        assert 0 < learning_rate(cosine, 0.999) < 1e-5
        assert learning_rate(constant, 0.7) == 0.2
