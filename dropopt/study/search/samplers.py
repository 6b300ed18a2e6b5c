"""Samplers by name, with all relevant arguments of Optuna's given explicitly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError
from dropopt.study.blend.names import Names, NoBlendError, searched_blend

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from dropopt.study.define.space import Space

#: Number of random trials before a sampler fits a model.
STARTUP_TRIALS = 10


def make_sampler(name: str, space: Space, seed: int, prior: Mapping[str, Any] | None = None) -> BaseSampler:
    """The sampler called ``name``.

    Args:
        name: ``auto``, ``efficacy``, ``tpe``, ``gp``, ``cmaes`` or ``random``. ``auto`` is ``efficacy`` if the space
            searches a blend, else ``tpe``.
        space: The search space.
        seed: Seed of the sampler.
        prior: Evidence of an earlier study about the blend.

    Raises:
        NoBlendError: ``efficacy`` is requested for a space without a blend.
        ConfigError: A prior is given to a sampler that does not learn the blend.
    """
    names = blend_of(space)
    if name == "auto":
        name = "efficacy" if names else "tpe"
    if name != "efficacy":
        if prior is not None:
            raise ConfigError(f"a prior needs the sampler efficacy, the only one that learns the blend, got {name}")
        return _optuna_sampler(name, space, seed)
    if not names:
        raise NoBlendError(
            f"space {space.name!r} searches no blend (two or more weights, either all by stage or none) for the "
            "efficacy sampler; use --sampler tpe"
        )
    from dropopt.study.blend.sampler import EfficacySampler

    return EfficacySampler(_optuna_sampler("tpe", space, seed), blend=names, seed=seed, prior=prior)


def blend_of(space: Space) -> Names:
    """The blend that a space searches, by stage; empty if there is none. Weights with choices are not part of it."""
    return searched_blend(parameter.name for parameter in space.parameters if not parameter.choices)


def _optuna_sampler(name: str, space: Space, seed: int) -> BaseSampler:
    import optuna
    from optuna.samplers import CmaEsSampler, GPSampler, RandomSampler, TPESampler

    if name == "random":
        return RandomSampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(n_startup_trials=1, warn_independent_sampling=False, seed=seed)
    if name == "gp":
        return GPSampler(n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False, seed=seed)
    with warnings.catch_warnings():
        # `group` models conditional parameters jointly. Optuna has called it experimental since 2.8.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=24,
            multivariate=True,
            group=space.conditional,
            constant_liar=True,
            seed=seed,
        )
