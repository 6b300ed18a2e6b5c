"""Hyperparameter studies of the engine: spaces, storage, a worker with its slots, results.

The only folder that imports optuna; names load on first use, so that ``dropopt --help`` and the child
processes that train stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropopt.study.command.script import Study
    from dropopt.study.define.space import Space

_HOME = {
    "EfficacySampler": "dropopt.study.blend.sampler",
    "ForecastPruner": "dropopt.study.search.forecast",
    "Space": "dropopt.study.define.space",
    "Study": "dropopt.study.command.script",
}

__all__ = ["Space", "Study"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dropopt.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
