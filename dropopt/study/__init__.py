"""Hyperparameter studies of the engine, on Optuna.

No other folder imports optuna. The names below are loaded on first use, which keeps ``dropopt --help`` and the child
processes that train fast to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropopt.study.blend.learned import export_evidence, learned, top_configurations
    from dropopt.study.blend.sampler import EfficacySampler
    from dropopt.study.command.script import Study
    from dropopt.study.confirm.comparison import comparison
    from dropopt.study.confirm.results import confirmation
    from dropopt.study.define.space import Space
    from dropopt.study.effects.effects import study_effects
    from dropopt.study.effects.evaluator import EffectsEvaluator
    from dropopt.study.search.forecast import ForecastPruner
    from dropopt.study.show.effects_figures import effects_figure, importance_figure
    from dropopt.study.show.efficacy import efficacy_report

#: The module of each public name.
_HOME = {
    "EffectsEvaluator": "dropopt.study.effects.evaluator",
    "EfficacySampler": "dropopt.study.blend.sampler",
    "ForecastPruner": "dropopt.study.search.forecast",
    "Space": "dropopt.study.define.space",
    "Study": "dropopt.study.command.script",
    "comparison": "dropopt.study.confirm.comparison",
    "confirmation": "dropopt.study.confirm.results",
    "effects_figure": "dropopt.study.show.effects_figures",
    "efficacy_report": "dropopt.study.show.efficacy",
    "export_evidence": "dropopt.study.blend.learned",
    "importance_figure": "dropopt.study.show.effects_figures",
    "learned": "dropopt.study.blend.learned",
    "study_effects": "dropopt.study.effects.effects",
    "top_configurations": "dropopt.study.blend.learned",
}

__all__ = [
    "EffectsEvaluator",
    "EfficacySampler",
    "ForecastPruner",
    "Space",
    "Study",
    "comparison",
    "confirmation",
    "effects_figure",
    "efficacy_report",
    "export_evidence",
    "importance_figure",
    "learned",
    "study_effects",
    "top_configurations",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dropopt.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
