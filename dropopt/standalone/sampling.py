"""Monte Carlo dropout: predictions with dropout, at the rates of the training.

After Gal and Ghahramani, *Dropout as a Bayesian approximation* (2016). Dropout is active, and everything else of the
network, BatchNorm in particular, stays in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError, EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.engine.baselines import BaselineSite
from dropopt.engine.site import DropoutSite
from dropopt.modules import dropout_layers, in_sampling_mode
from dropopt.training.evaluate import device_of, in_layout
from dropopt.training.rates import Rates, apply_rates


@dataclass(frozen=True, eq=False)
class Dropper:
    """The places of a network where features are dropped, with the part that drops them.

    Args:
        network: The network; its own dropout layers drop too.
        sites: Pairs of a module of the network and the site that masks its output.
    """

    network: nn.Module
    sites: tuple[tuple[nn.Module, DropoutSite | BaselineSite], ...]

    @classmethod
    def of(cls, network: nn.Module, run: RunConfig, rates: Rates, shape: tuple[int, int, int]) -> Dropper:
        """Find the places of ``run.engine`` in ``network`` and set their rates.

        Args:
            network: The network.
            run: The configuration of its training.
            rates: The rates of its best epoch.
            shape: Channels, height and width of an image.

        Raises:
            ConfigError: The rates do not fit the network.
        """
        if not rates:
            return cls(network, ())
        example = in_layout(torch.zeros(2, *shape, device=device_of(network, run.train)), run.train)
        # The rates are set afterwards, so the complexity, which they depend on, does not matter.
        complexity = 0.5 if isinstance(run.engine, EngineConfig) else None
        with attach(network, run.engine, example=example, complexity=complexity, inside="keep") as engine:
            apply_rates(engine, rates)
            sites: dict[str, Any] = dict(engine.sites)
            modules = {name: engine.places[name].module for name in rates if rates[name]["p"].any()}
        for site in sites.values():
            site.sampling = True
        return cls(network, tuple((modules[name], sites[name]) for name in modules))

    @property
    def drops(self) -> bool:
        """Whether anything is dropped."""
        return bool(self.sites or dropout_layers(self.network))

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop features inside the block.

        Raises:
            ConfigError: Nothing is dropped in this network.
        """
        if not self.drops:
            raise ConfigError(
                "this network was trained without dropout of its features, so its predictions have no samples; "
                "leave out --samples"
            )
        handles = [module.register_forward_hook(site.hook) for module, site in self.sites]
        try:
            with in_sampling_mode(self.network):
                yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True, eq=False)
class Sampled:
    """Class probabilities under many dropout masks.

    Args:
        mean: (N, K) mean over the masks.
        entropy: (N,) entropy of the mean, in nats: the whole uncertainty.
        information: (N,) mutual information of class and mask, in nats: the part of the entropy that comes from
            disagreement between masks.
    """

    mean: Tensor
    entropy: Tensor
    information: Tensor

    @classmethod
    def of(cls, draws: list[Tensor]) -> Sampled:
        """Summarise the probabilities (N, K) of each mask.

        Example:
            >>> certain = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
            >>> sampled = Sampled.of(certain)
            >>> round(sampled.entropy.item(), 3), round(sampled.information.item(), 3)
            (0.693, 0.693)
        """
        mean = torch.stack(draws).mean(0)
        entropy = entropy_of(mean)
        within = torch.stack([entropy_of(one) for one in draws]).mean(0)
        return cls(mean, entropy, (entropy - within).clamp(min=0))


def entropy_of(probabilities: Tensor) -> Tensor:
    """Entropy (N,) in nats of probabilities (N, K)."""
    entropy: Tensor = torch.special.entr(probabilities).sum(1)
    return entropy
