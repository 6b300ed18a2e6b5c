"""The optimizer and its learning rate."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from toy import network, recipe, toy

from dropopt.config import ConfigError
from dropopt.training import fit
from dropopt.training.optim import learning_rate, make_optimizer


class TestOptimizer:
    """Parameter groups and learning rates."""

    def test_norms_and_biases_do_not_decay(self):
        model = network()
        for kind in ("sgd", "adamw"):
            decays, spared = make_optimizer(model, recipe(optimizer=kind, weight_decay=0.1)).param_groups
            assert (decays["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
            assert {id(p) for p in decays["params"]} == {id(p) for p in model.parameters() if p.ndim > 1}
            assert len(decays["params"]) + len(spared["params"]) == len(list(model.parameters()))

    def test_frozen_parameters_are_unchanged(self):
        model, before = network(), network()
        model[0].weight.requires_grad_(False)
        fit(model, None, toy(), recipe(epochs=1))
        assert torch.equal(model[0].weight, before[0].weight)
        assert not torch.equal(model[4].weight, before[4].weight)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
            fit(model, None, toy(), recipe())

    def test_a_pattern_scales_the_learning_rate(self):
        """The first pattern that matches a name counts; 0 freezes, and the groups keep their weight decay."""
        model, patterns = network(), {"0.*": 0.0, "*.bias": 0.5, "[45].*": 0.25, "1.bias": 0.0}
        groups = make_optimizer(model, recipe(lr_scale=patterns, weight_decay=0.1)).param_groups
        given = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            scale = (
                0.0 if name.startswith("0.") else 0.5 if name.endswith(".bias") else 0.25 if name[0] in "45" else 1.0
            )
            assert parameter.requires_grad == bool(scale)
            assert given.get(id(parameter)) == ((scale, 0.1 * (parameter.ndim > 1)) if scale else None)
        names = ", ".join(name for name, _ in list(model.named_parameters())[:3])
        message = f"^train.lr_scale: no parameter has a name like '99.\\*'; there are: {names}, ...$"
        with pytest.raises(ConfigError, match=message):
            make_optimizer(model, recipe(lr_scale={"0.*": 1.0, "99.*": 1.0}))

    @pytest.mark.parametrize("name", ["constant", "cosine", "onecycle"])
    def test_schedules_are_pytorchs(self, name):
        lr, steps = 0.2, 200
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
        peak = (0.3 * steps + 1) / (steps + 1)
        scheduler = {
            "constant": lambda: schedules.ConstantLR(optimizer, 1.0),
            "cosine": lambda: schedules.CosineAnnealingLR(optimizer, steps),
            "onecycle": lambda: schedules.OneCycleLR(optimizer, lr, steps + 1, pct_start=peak, cycle_momentum=False),
        }[name]()
        for step in range(steps + 1):
            ours = learning_rate(recipe(schedule=name, lr=lr), step / steps)
            assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-12), step
            optimizer.step()
            if step < steps:
                scheduler.step()
