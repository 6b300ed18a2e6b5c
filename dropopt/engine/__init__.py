"""The dropout engine: where, what and how often features are dropped; knows nothing of training or studies."""

from __future__ import annotations

from types import UnionType

from torch import Tensor, nn

from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine.baselines import BaselineEngine, BaselineSite
from dropopt.engine.engine import DropoutEngine
from dropopt.engine.places.find import Example, Selector, find_places
from dropopt.engine.site import DropoutSite

__all__ = ["BaselineEngine", "DropoutEngine", "attach"]


def attach(
    model: nn.Module,
    config: EngineConfig | Baseline,
    *,
    example: Example,
    complexity: float = 0.5,
    sites: Selector | None = None,
) -> DropoutEngine | BaselineEngine:
    """Add dropout to ``model`` without changing its class, keys or parameters.

    Args:
        model: any module; run once in eval mode on ``example``, with its state guarded.
        config: the paper's engine, or a baseline method at the same places.
        example: an input batch such as the model is trained on, (N, C, H, W); a tuple for several arguments.
        complexity: D_complexity of eq. (9) in [0, 1], of the data; half way when it was not measured.
        sites: overrides ``config.sites``, and may be a function (name, module) -> bool.

    Returns an engine: a context manager whose exit, or ``detach()``, leaves the model as it was.
    Raises ConfigError, naming the module, when no site matches, one cannot be a site (see ``find_places``), or one has
    dropout of dropopt already; and for arguments of another type.
    """
    _require("model", model, nn.Module, "a torch.nn.Module")
    _require("config", config, EngineConfig | Baseline, "a dropopt.EngineConfig or dropopt.Baseline")
    for part in example if isinstance(example, tuple) else (example,):
        _require("example", part, Tensor, "a tensor, or a tuple of tensors")
    places = find_places(model, config.sites if sites is None else sites, example)
    for place in places:
        owners = [getattr(hook, "__self__", None) for hook in place.module._forward_hooks.values()]
        if any(isinstance(owner, (DropoutSite, BaselineSite)) for owner in owners):
            raise ConfigError(
                f"module {place.name!r} has dropout of dropopt already: call detach() on the engine that is there"
            )
    if isinstance(config, Baseline):
        return BaselineEngine(model, config, places)
    return DropoutEngine(model, config, places, complexity=complexity)


def _require(name: str, value: object, kind: type | UnionType, allowed: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be {allowed}, got {type(value).__name__}")
