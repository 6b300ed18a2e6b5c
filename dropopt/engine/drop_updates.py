"""Drop(p) on weight updates: W <- W - eta Drop(p) dE/dW, for any optimizer.

The paper masks the gradient. With momentum or Adam, a weight with a masked gradient would still move, so the update
itself is masked here. The update is the change that the optimizer's step makes; each output feature has one draw,
which several processes share.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dropopt import equations
from dropopt.config import ConfigError
from dropopt.engine.places.layers import is_adapted
from dropopt.engine.ranks import is_sharded, of_first_rank
from dropopt.engine.site import DropoutSite


class UpdateDropper:
    """Hooks on one optimizer that undo the update of dropped output features.

    Args:
        sites: each site with the layers whose output features it drops. Of these layers, the parameters that the
            optimizer holds in a step and that have as many output features as the site are masked.
        optimizer: any optimizer.

    Raises:
        ConfigError: if the optimizer holds no such parameter, if it trains one of a layer that peft adapts, or if each
            process holds a part of a parameter only.
    """

    def __init__(self, sites: Iterable[tuple[DropoutSite, tuple[nn.Module, ...]]], optimizer: torch.optim.Optimizer):
        if any(is_sharded(p) for group in optimizer.param_groups for p in group["params"]):
            raise ConfigError(
                "drop_updates cannot mask parameters of which each process holds a part (FSDP2): set drop_updates to "
                "false"
            )
        self._layers = [(site, module) for site, modules in sites for module in modules]
        self._choose(optimizer)
        trained = {key for key, p in _parameters_of(optimizer).items() if p.requires_grad}
        if any(is_adapted(m) and any(id(p) in trained for p in m.parameters()) for _, m in self._layers):
            raise ConfigError(
                "drop_updates cannot mask the low-rank updates of layers that peft adapts, in which all features share "
                "parameters: set drop_updates to false"
            )
        if not self.pairs:
            raise ConfigError(
                "drop_updates finds no layer in the optimizer whose output features a site drops; "
                "choose other sites (such as 'norm' or 'conv'), or set drop_updates to false"
            )
        self._optimizer = weakref.ref(optimizer)
        self._before: list[Tensor] = []
        #: Whether the optimizer has made a step since this was set to False; it may be new to a model that has trained.
        self.stepped = True
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._drop),
        ]

    def watches(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the hooks are on this optimizer."""
        return self._optimizer() is optimizer

    def remove(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _choose(self, optimizer: torch.optim.Optimizer) -> None:
        """Choose the parameters to mask among those that the optimizer holds now."""
        held = _parameters_of(optimizer)
        self._held = _count(optimizer)
        self.pairs = [
            (site, module, parameter)
            for site, module in self._layers
            for parameter in _parameters(module)
            if id(parameter) in held and _features(module, parameter) == site.importance.numel()
        ]

    @torch.no_grad()
    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.stepped = True
        if _count(optimizer) != self._held:  # training that unfreezes layers adds some to an optimizer
            self._choose(optimizer)
        self._before = [parameter.detach().clone() for _, _, parameter in self.pairs]

    @torch.no_grad()
    def _drop(self, *_: Any) -> None:
        kept: dict[int, Tensor] = {}  # one draw per site, which a feature's weight and bias share
        for (site, module, parameter), before in zip(self.pairs, self._before, strict=True):
            if id(site) not in kept:
                noise = torch.rand(site.importance.numel(), device=parameter.device)
                p = site.p.to(noise.device).expand(noise.shape)
                passed = cast("Tensor", equations.dropped_gradient(torch.ones_like(noise), noise, p))
                kept[id(site)] = of_first_rank(passed) > 0
            parameter.copy_(torch.where(_along(module, parameter, kept[id(site)]), parameter, before))
        self._before = []


def plain_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside the wrappers of a framework, such as Accelerate's, which run no hooks.

    Raises:
        ConfigError: if there is no optimizer of PyTorch.
    """
    plain = optimizer
    while isinstance(inner := getattr(plain, "optimizer", None), torch.optim.Optimizer):
        plain = inner
    if not isinstance(plain, torch.optim.Optimizer):
        kind = type(optimizer)
        raise ConfigError(
            f"watch() takes a torch.optim.Optimizer, got {kind.__module__}.{kind.__qualname__}: call it for each one, "
            "and of a wrapper for the one inside; without one, set drop_updates to false"
        )
    return plain


def _parameters_of(optimizer: torch.optim.Optimizer) -> dict[int, Tensor]:
    """Return the parameters that an optimizer holds, by their identity."""
    return {id(p): p for group in optimizer.param_groups for p in group["params"]}


def _count(optimizer: torch.optim.Optimizer) -> int:
    """Return the number of parameters that an optimizer holds."""
    return sum(len(group["params"]) for group in optimizer.param_groups)


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return a layer's own parameters, and those of its parametrisations, such as weight norm."""
    made = getattr(module, "parametrizations", None)
    return [*module.parameters(recurse=False), *(made.parameters() if isinstance(made, nn.ModuleDict) else ())]


def _groups(module: nn.Module, parameter: Tensor) -> int | None:
    """Return the number of groups if ``parameter`` is (in, out per group, ...); None if it is (out, ...)."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and parameter.ndim > 1:
        return module.groups
    return None


def _features(module: nn.Module, parameter: Tensor) -> int:
    """Return the number of output features that the parameter has."""
    if groups := _groups(module, parameter):
        return parameter.shape[1] * groups
    return parameter.shape[0] if parameter.ndim else 0


def _along(module: nn.Module, parameter: Tensor, kept: Tensor) -> Tensor:
    """Return ``kept`` (C,), one per output feature, in a shape that broadcasts over the parameter."""
    if groups := _groups(module, parameter):
        kept = kept.view(groups, 1, -1).expand(-1, parameter.shape[0] // groups, -1).reshape(parameter.shape[:2])
    return kept.view(*kept.shape, *[1] * (parameter.ndim - kept.ndim))
