"""Benchmark of the effects: do the 90% intervals contain the truth, on objectives whose effects are known?

    python -m tests.benchmarks.effects --quick        # a minute
    python -m tests.benchmarks.effects --jobs 2

Each study has its own random objective, whose indices and costs are computed from the objective itself. The trials come
from TPE or at random, with noise, and for the rows "pruned" a third of the trials stops early. ``coverage`` is the
share of the true values inside their 90% intervals. PED-ANOVA is the default evaluator of ``optuna.importance``.
"""

from __future__ import annotations
