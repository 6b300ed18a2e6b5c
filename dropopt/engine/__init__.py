"""The dropout engine: where, what and how often features are dropped; knows nothing of training or studies."""

from __future__ import annotations

from torch import nn

from dropopt.config import Baseline, EngineConfig
from dropopt.engine.baselines import BaselineEngine
from dropopt.engine.engine import DropoutEngine
from dropopt.engine.places import Example, Selector, find_places

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
    Raises ConfigError, naming the module, when no site matches or one cannot be a site (see ``find_places``).
    """
    places = find_places(model, config.sites if sites is None else sites, example)
    if isinstance(config, Baseline):
        return BaselineEngine(model, config, places)
    return DropoutEngine(model, config, places, complexity=complexity)
