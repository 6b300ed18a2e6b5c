"""What one would use otherwise, behind the same ``attach``: parts of torch, torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, StochasticDepth

from dropopt.config import Baseline, ConfigError
from dropopt.engine.attached import Attached
from dropopt.engine.places.find import Place
from dropopt.engine.randomness import random_state, set_random_state


def _part(config: Baseline, place: Place) -> nn.Module | None:
    """The library's own module for a place; its ``p`` is set as training goes."""
    if config.kind == "none":
        return None
    if config.kind == "stochastic_depth":
        depth: nn.Module = StochasticDepth(config.p, "row")
        return depth
    if config.kind == "dropout" or place.ndim != 4:  # where there is no map, map-wise dropout is plain dropout
        return nn.Dropout(config.p)
    if config.kind == "dropout2d":
        return nn.Dropout2d(config.p)
    return _timm_dropblock(config) if config.library == "timm" else DropBlock2d(config.p, config.block_size)


def _timm_dropblock(config: Baseline) -> nn.Module:
    try:
        from timm.layers.drop import DropBlock2d as TimmDropBlock2d
    except ImportError:
        raise ConfigError("timm is not installed; pip install timm") from None
    return TimmDropBlock2d(config.p, config.block_size)


class BaselineSite(nn.Module):
    """Applies a library's module to a host's output while the host trains.

    Stochastic depth falls back to the host's input, so the branch that it drops is the difference; where input
    and output differ in shape there is nothing to fall back to, and the output passes untouched.
    """

    part: Any  # a module of torch, torchvision or timm

    def __init__(self, part: nn.Module, axis: int) -> None:
        super().__init__()
        self.part = part
        self.axis = axis
        self.block_size = part.block_size if isinstance(part, DropBlock2d) else None

    def drop(self, p: float) -> None:
        """Drop with probability p from now on."""
        setattr(self.part, "drop_prob" if hasattr(self.part, "drop_prob") else "p", p)  # timm's name, and the others'

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook, silent unless the host trains."""
        if not module.training:
            return None
        if isinstance(self.part, StochasticDepth):
            identity = args[0] if args else output
            return identity + self.part(output - identity) if identity.shape == output.shape else None
        if self.block_size is not None:  # torchvision takes no even block, and shrinks it to the map itself
            side = min(self.block_size, *output.shape[2:])
            self.part.block_size = side - (side + 1) % 2
        masked: Tensor = self.part(output if self.axis == 1 else output.movedim(-1, 1))
        return masked if self.axis == 1 else masked.movedim(1, -1)


class BaselineEngine(Attached):
    """A fixed dropout method with the interface of :class:`~dropopt.engine.engine.DropoutEngine`."""

    needs_probe = False

    def __init__(self, model: nn.Module, config: Baseline, places: list[Place]) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self._progress = 0.0
        self.sites: dict[str, BaselineSite] = {}
        for place in places:
            part = _part(config, place)
            if part is None:
                continue
            self.sites[place.name] = site = BaselineSite(part, place.axis)
            self._handles.append(place.module.register_forward_hook(site.hook))
        self.places = {place.name: place for place in places}
        self._apply()

    def step(self, *, epoch: float, epochs: int, **_: float | None) -> None:
        """Follow the schedule; metrics change nothing."""
        if not 0 <= epoch <= epochs or epochs < 1:
            raise ValueError(f"epoch must be in [0, {epochs}], got {epoch}")
        self._progress = epoch / epochs
        self._apply()

    def rates(self) -> list[dict[str, Any]]:
        """One row per site: ``site``, ``depth`` and ``applied``."""
        return [
            {"site": name, "depth": place.depth, "applied": self._p() if name in self.sites else 0.0}
            for name, place in self.places.items()
        ]

    def weights(self) -> dict[str, float]:
        """A baseline blends nothing."""
        return {}

    def probe(self, images: Any, labels: Tensor) -> None:
        """A baseline scores nothing."""

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """A baseline leaves updates alone."""

    def state_dict(self) -> dict[str, Any]:
        """Progress, and torch's random state that the masks are drawn from."""
        return {"progress": self._progress, "rng": random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._progress = state["progress"]
        set_random_state(state["rng"])
        self._apply()

    def _p(self) -> float:
        return self.config.p * (self._progress if self.config.schedule == "linear" else 1.0)

    def _apply(self) -> None:
        for site in self.sites.values():
            site.drop(self._p())
