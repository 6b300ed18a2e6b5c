"""Drop(p) on weight updates: W <- W - eta Drop(p) dE/dW, for any optimizer.

The paper masks the gradient; under momentum or Adam a masked gradient still moves the weight. What is masked here is
the update itself, the difference that the optimizer's step makes, one draw per output feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dropopt import equations
from dropopt.engine.site import DropoutSite


class UpdateDropper:
    """Hooks of one optimizer that undo the update of dropped output features.

    ``sites`` pairs each site with the layers whose output features it drops; of these, every parameter that the
    optimizer holds and whose first dimension is the site's features is masked.
    """

    def __init__(self, sites: Iterable[tuple[DropoutSite, tuple[nn.Module, ...]]], optimizer: torch.optim.Optimizer):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.pairs: list[tuple[DropoutSite, nn.Parameter]] = []
        for site, modules in sites:
            for module in modules:
                for parameter in module.parameters(recurse=False):
                    if id(parameter) in held and parameter.shape[:1] == site.importance.shape:
                        self.pairs.append((site, parameter))
        self._before: list[Tensor] = []
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._drop),
        ]

    def remove(self) -> None:
        """Let the optimizer go."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _remember(self, *_: Any) -> None:
        self._before = [parameter.detach().clone() for _, parameter in self.pairs]

    @torch.no_grad()
    def _drop(self, *_: Any) -> None:
        noise: dict[int, Tensor] = {}  # one draw per site: a feature's weight and bias share it
        for (site, parameter), before in zip(self.pairs, self._before, strict=True):
            p = site.p.to(parameter.device).expand(parameter.shape[0])
            if id(site) not in noise:
                noise[id(site)] = torch.rand(parameter.shape[0], device=parameter.device)
            shaped = noise[id(site)].view(-1, *[1] * (parameter.ndim - 1))
            kept = torch.as_tensor(equations.dropped_gradient(torch.ones_like(parameter), shaped, p))
            parameter.copy_(torch.where(kept > 0, parameter, before))
        self._before = []
