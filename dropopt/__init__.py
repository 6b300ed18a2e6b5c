"""An adaptive dropout engine for PyTorch CNNs, and hyperparameter studies that tune it.

Names are loaded on first use: ``import dropopt`` alone imports neither torch nor optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropopt.config import Baseline, ConfigError, EngineConfig, RunConfig, TrainConfig
    from dropopt.engine import DropoutEngine, attach, detach
    from dropopt.export import load
    from dropopt.standalone.load import load_model

#: The module of each public name.
_HOME = {
    "Baseline": "dropopt.config",
    "ConfigError": "dropopt.config",
    "EngineConfig": "dropopt.config",
    "RunConfig": "dropopt.config",
    "TrainConfig": "dropopt.config",
    "DropoutEngine": "dropopt.engine",
    "attach": "dropopt.engine",
    "detach": "dropopt.engine",
    "load": "dropopt.export",
    "load_model": "dropopt.standalone.load",
}

_MODULES = ("equations", "engine", "training", "study")

__all__ = [
    "Baseline",
    "ConfigError",
    "DropoutEngine",
    "EngineConfig",
    "RunConfig",
    "TrainConfig",
    "attach",
    "detach",
    "load",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dropopt")
        except PackageNotFoundError:  # a copy of the folder that was not installed
            return "unknown"
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"dropopt.{name}")
    raise AttributeError(f"module 'dropopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
