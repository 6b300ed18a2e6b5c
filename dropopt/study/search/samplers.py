"""Samplers by name, with all relevant arguments of Optuna's samplers given explicitly."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from dropopt.config import ConfigError
from dropopt.study.blend.names import Names, NoBlendError, searched_blend
from dropopt.study.blend.sampler import EfficacySampler
from dropopt.study.define.space import Space
from dropopt.study.search.handover import HandoverSampler
from dropopt.study.search.recent import RecentSampler

#: Number of complete trials above which ``gp`` hands over to TPE. A Gaussian process is fitted anew for each draw,
#: which takes about half a second of processor time at this number, and several times as long at 500.
GP_TRIALS = 150

#: The number of trials from which TPE learns at most, and how many of them are the best; the others are the latest.
#: TPE models its 25 best trials and the others. Learning from 500 trials instead takes 5 ms more for each draw, and it
#: does not find better trials.
TPE_TRIALS, TPE_BEST = 250, 25

#: Number of random trials before a sampler fits a model.
STARTUP_TRIALS = 10


def refuse_pickles(name: str, url: str) -> None:
    """Raise :class:`ConfigError` if the sampler called ``name`` would unpickle data that someone else can write.

    Optuna's CMA-ES keeps its state in attributes of trials, as a pickle, and unpickling can run any code.

    Args:
        name: The sampler.
        url: The URL of the storage, or the path of a journal file.
    """
    if name != "cmaes":
        return
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    if ("://" not in url or url.startswith("sqlite:///")) and _is_private(path):
        return
    raise ConfigError(
        "the sampler cmaes reads pickles from the storage, which can run the code of whoever writes there; use it with "
        "a SQLite or journal file that only you can write, or use --sampler tpe or gp"
    )


def _is_private(path: Path) -> bool:
    """Whether only this user can write the file at ``path``, or it does not exist yet."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def make_sampler(
    name: str,
    space: Space,
    seed: int,
    prior: Mapping[str, Any] | None = None,
    notice: Callable[[str], None] = lambda line: None,
) -> BaseSampler:
    """The sampler called ``name``.

    Args:
        name: ``auto``, ``efficacy``, ``tpe``, ``gp``, ``cmaes`` or ``random``. ``auto`` is ``efficacy`` if the space
            searches a blend, else ``tpe``.
        space: The search space.
        seed: Seed of the sampler.
        prior: Evidence of an earlier study about the blend.
        notice: Called with a notice when ``gp`` hands over to TPE.

    Raises:
        NoBlendError: ``efficacy`` is requested for a space without a blend.
        ConfigError: A prior is given to a sampler that does not learn the blend.
    """
    names = blend_of(space)
    if name == "auto":
        name = "efficacy" if names else "tpe"
    if name != "efficacy" and prior is not None:
        raise ConfigError(f"a prior needs the sampler efficacy, the only one that learns the blend, got {name}")
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(n_startup_trials=1, warn_independent_sampling=False, seed=seed)
    if name == "gp":
        return _gp(space, seed, notice)
    if name == "tpe":
        return _tpe(space, seed)
    if not names:
        raise NoBlendError(
            f"space {space.name!r} searches no blend (two or more weights, either all by stage or none), which the "
            "sampler efficacy needs; use --sampler tpe"
        )
    return EfficacySampler(_tpe(space, seed), blend=names, seed=seed, prior=prior)


def blend_of(space: Space) -> Names:
    """The blend that a space searches, by stage; empty if there is none. Weights with choices are not part of it."""
    return searched_blend(parameter.name for parameter in space.parameters if not parameter.choices)


def _gp(space: Space, seed: int, notice: Callable[[str], None]) -> BaseSampler:
    """Return a Gaussian process that hands over to TPE above :data:`GP_TRIALS` complete trials."""
    line = f"the sampler gp is slow above {GP_TRIALS} complete trials, so tpe is used from now on"
    process = GPSampler(n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False, seed=seed)
    return HandoverSampler(process, _tpe(space, seed), GP_TRIALS, lambda: notice(line))


def _tpe(space: Space, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # `group` models conditional parameters jointly. Optuna has called it experimental since 2.8.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        tpe = TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=24,
            multivariate=True,
            group=space.conditional,
            constant_liar=True,
            seed=seed,
        )
    return RecentSampler(tpe, TPE_TRIALS, TPE_BEST)
