"""Samplers and pruners by name, with every argument of Optuna's that matters given explicitly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.config import METHODS, ConfigError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from dropopt.study.define.space import Space

#: Trials drawn at random before a model of them is worth anything.
STARTUP_TRIALS = 10

#: Completed trials before a median means anything.
PRUNING_STARTUP = 4

#: The share of its epochs that each trial is left alone: regularised runs start slowly. On Fashion-MNIST with a
#: one-cycle rate the ranks of the first third even disagree with the last ones, and a tenth lost the best trials.
PRUNING_WARMUP = 1 / 6


def blend(space: Space) -> tuple[tuple[str, ...], ...]:
    """The efficacy weights that a space searches, as Optuna parameters: a tuple for each stage.

    One tuple when they hold for all of training; none when there is no blend to learn.
    """
    weights = {f"w_{method}" for method in METHODS}
    stages: dict[int | None, list[str]] = {}
    for parameter in space.parameters:
        if parameter.setting in weights and not parameter.choices:
            stages.setdefault(parameter.stage, []).append(parameter.name)
    groups = tuple(tuple(names) for names in stages.values())
    alike = len({len(names) for names in groups}) == 1 and (None not in stages or len(stages) == 1)
    return groups if alike and len(groups[0]) >= 2 else ()


def make_sampler(name: str, space: Space, seed: int, prior: Mapping[str, Any] | None = None) -> BaseSampler:
    """The sampler called ``name``; ``auto`` learns the blend where a space searches one, from ``prior`` on."""
    groups = blend(space)
    if name == "auto":
        name = "efficacy" if groups else "tpe"
    if name != "efficacy":
        if prior is not None:
            raise ConfigError(f"a prior is about the blend, which only the efficacy sampler learns, not {name}")
        return _base(name, space, seed)
    if not groups:
        raise ConfigError(
            f"space {space.name!r} searches no blend (two or more weights, all by stage or none) for the "
            "efficacy sampler; use --sampler tpe"
        )
    from dropopt.study.blend.sampler import EfficacySampler

    return EfficacySampler(_base("tpe", space, seed), blend=groups, seed=seed, prior=prior)


def _base(name: str, space: Space, seed: int) -> BaseSampler:
    import optuna
    from optuna.samplers import CmaEsSampler, GPSampler, RandomSampler, TPESampler

    if name == "random":
        return RandomSampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(n_startup_trials=1, warn_independent_sampling=False, seed=seed)
    if name == "gp":
        return GPSampler(n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False, seed=seed)
    with warnings.catch_warnings():
        # `group` has been experimental since Optuna 2.8; it models conditional parameters jointly.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=24,
            multivariate=True,
            group=space.conditional,
            constant_liar=True,
            seed=seed,
        )


def make_pruner(name: str, epochs: int) -> BasePruner:
    """The pruner called ``name``, for trials of so many epochs."""
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, PercentilePruner

    from dropopt.study.search.forecast import ForecastPruner

    warmup = round(epochs * PRUNING_WARMUP)
    if name == "median":
        return MedianPruner(n_startup_trials=PRUNING_STARTUP, n_warmup_steps=warmup, interval_steps=1)
    if name == "percentile":
        return PercentilePruner(25.0, n_startup_trials=PRUNING_STARTUP, n_warmup_steps=warmup, interval_steps=1)
    if name == "forecast":
        return ForecastPruner(n_startup_trials=PRUNING_STARTUP)
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, warmup), max_resource=epochs, reduction_factor=3)
    return NopPruner()
