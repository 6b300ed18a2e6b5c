"""The drop rates of an engine as plain tensors, to apply them again without the training that led to them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dropopt.config import P_MAX, ConfigError
from dropopt.engine import Engine
from dropopt.engine.baselines import BaselineSite
from dropopt.engine.site import DropoutSite

#: The tensors of a site that decide what it drops.
_DECISIVE = ("p", "shares", "method_rates")

#: Drop rates by the name of the site's module, and by the name of the tensor.
Rates = dict[str, dict[str, Tensor]]


def rates_of(engine: Engine | None) -> Rates:
    """Copy the drop rates that ``engine`` applies now; empty without an engine, and for one that masks nothing."""
    found: Rates = {}
    for name, site in getattr(engine, "sites", {}).items():
        if isinstance(site, BaselineSite):
            found[name] = {"p": torch.tensor([site.rate])}
        elif site.masks:
            state = site.state_dict()
            found[name] = {key: state[key].detach().cpu().clone() for key in _DECISIVE if key in state}
    return found


def apply_rates(engine: Engine, rates: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Set the drop rates of ``engine`` to ``rates``, as :func:`rates_of` returned them.

    Raises:
        ConfigError: The rates belong to other sites, or are not probabilities.
    """
    if elsewhere := sorted(rates.keys() - engine.sites.keys()):
        raise ConfigError(f"there are drop rates for {elsewhere[0]!r}, where nothing is dropped")
    for name, tensors in rates.items():
        site = engine.sites[name]
        if isinstance(site, DropoutSite):
            _set(name, site, tensors)
        else:
            site.drop(_checked(name, "p", tensors, torch.zeros(1)).item())


def _set(name: str, site: DropoutSite, tensors: Mapping[str, Tensor]) -> None:
    state = site.state_dict()
    for key in _DECISIVE:
        if key in state:
            state[key] = _checked(name, key, tensors, state[key])
    site.resume(state)


def _checked(name: str, key: str, tensors: Mapping[str, Tensor], like: Tensor) -> Tensor:
    value = tensors.get(key)
    if value is None or value.shape != like.shape:
        given = "none" if value is None else tuple(value.shape)
        raise ConfigError(f"drop rates {key!r} of {name!r} must have the shape {tuple(like.shape)}, got {given}")
    most = 1.0 if key == "shares" else P_MAX
    low, high = (bound.item() for bound in value.aminmax())
    if not (0 <= low <= high <= most + 1e-6) or not math.isfinite(high):
        raise ConfigError(f"drop rates {key!r} of {name!r} must be in [0, {most}], got {low:g} to {high:g}")
    return value
