"""Does learning the blend pay? Final regret of samplers on objectives whose truth is known.

    python -m tests.benchmarks.efficacy --quick
    python -m tests.benchmarks.efficacy --seeds 20 --samplers tpe,efficacy,gp,cmaes,random

An objective is to be minimised: the loss of a blend (best 0, typically 0.3 to 1), that of six further
parameters (at most 0.25), and normal noise. Every sampler suggests the shares as numbers in [0, 1], which the
objective divides by their sum. A study's regret is the noise-free loss of the trial with the best noisy value.
"""

from __future__ import annotations

import argparse
import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import scipy
import sklearn
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table

from dropopt.study.sampler import EfficacySampler

NOISE = float(os.environ.get("NOISE", "0.03"))
TRIALS = 60
#: What the six further parameters cost at most, all together.
NUISANCE = float(os.environ.get("NUIS", "0.1"))

Loss = Callable[[np.ndarray, dict[str, Any]], float]


@dataclass(frozen=True)
class Problem:
    """One objective with a known minimum of 0."""

    names: tuple[str, ...]
    blend: Loss
    best: dict[str, Any]  # of the further parameters

    def shares(self, params: dict[str, Any]) -> np.ndarray:
        raw = np.array([params[name] for name in self.names]) + 1e-9
        return raw / raw.sum()

    def truth(self, params: dict[str, Any]) -> float:
        lr = (np.log10(params["lr"]) - self.best["lr"]) / 2
        decay = (np.log10(params["decay"]) - self.best["decay"]) / 2
        others = [params[name] - self.best[name] for name in ("alpha", "kappa")]
        block = (params["block"] - self.best["block"]) / 6
        nuisance = np.minimum(np.square([lr, decay, *others, block]), 1.0).mean() * 0.7
        nuisance += 0.3 * (params["pattern"] != self.best["pattern"])
        return self.blend(self.shares(params), params) + NUISANCE * float(nuisance)

    def __call__(self, trial: optuna.Trial) -> float:
        for name in self.names:
            trial.suggest_float(name, 0.0, 1.0)
        trial.suggest_float("lr", 1e-4, 1.0, log=True)
        trial.suggest_float("decay", 1e-6, 1e-2, log=True)
        trial.suggest_float("alpha", 0.0, 1.0)
        trial.suggest_float("kappa", 0.0, 1.0)
        trial.suggest_int("block", 1, 7)
        trial.suggest_categorical("pattern", ["element", "channel", "spatial"])
        return self.truth(trial.params)


def _interior(rng: np.random.Generator, methods: int) -> np.ndarray:
    """A blend with no share below 0.08."""
    floor = 0.08
    return floor + (1 - floor * methods) * rng.dirichlet(np.ones(methods))


def quadratic(rng: np.random.Generator, methods: int) -> Loss:
    """A random polynomial of Scheffe, from 0 to 1: its best blend lies anywhere, often on a face."""
    alone = rng.normal(size=methods)
    together = np.triu(rng.normal(scale=2.0, size=(methods, methods)), 1)

    def raw(w: np.ndarray) -> np.ndarray:
        return w @ alone + np.einsum("...i,ij,...j->...", w, together, w)

    sample = np.concatenate([rng.dirichlet(np.full(methods, a), size=20000) for a in (0.2, 1.0)])
    low = raw(sample).min()
    high = np.quantile(raw(sample), 0.99)
    return lambda w, _: float(max(raw(w) - low, 0.0) / (high - low))


def bowl(rng: np.random.Generator, methods: int) -> Loss:
    """A bowl of random curvature around a blend inside."""
    root = rng.normal(size=(methods, methods))
    curve = root @ root.T + 0.5 * np.eye(methods)
    best = _interior(rng, methods)
    reference = rng.dirichlet(np.ones(methods), size=500) - best
    scale = 0.5 / np.einsum("ni,ij,nj->n", reference, curve, reference).mean()
    return lambda w, _: float(scale * (w - best) @ curve @ (w - best))


def corner(rng: np.random.Generator, methods: int) -> Loss:
    """One method alone is best; the others differ a little."""
    cost = rng.uniform(0.7, 1.0, size=methods)
    cost[rng.integers(methods)] = 0.0
    return lambda w, _: float(cost @ w)


def edge(rng: np.random.Generator, methods: int) -> Loss:
    """Two methods together beat either; all others harm."""
    a, b = rng.permutation(methods)[:2]
    split = rng.uniform(0.3, 0.7)
    return lambda w, _: float(0.8 * (1 - w[a] - w[b]) + 2.0 * (w[a] - split * (w[a] + w[b])) ** 2)


def ridge(rng: np.random.Generator, methods: int) -> Loss:
    """A valley: only how much two methods take together matters, to a sharp best."""
    pair = rng.permutation(methods)[: methods // 2]
    level = rng.uniform(0.3, 0.8)
    return lambda w, _: float(min(2.0 * abs(w[pair].sum() - level), 1.0))


def plateau(rng: np.random.Generator, methods: int) -> Loss:
    """Flat, but for a basin around a blend inside."""
    best = _interior(rng, methods)
    return lambda w, _: float(min(((w - best) @ (w - best)) / 0.4**2, 1.0))


def sharp(rng: np.random.Generator, methods: int) -> Loss:
    """A cone whose point lies inside."""
    best = _interior(rng, methods)
    return lambda w, _: float(min(np.linalg.norm(w - best) / 0.5, 1.0))


def two(rng: np.random.Generator, methods: int) -> Loss:
    """Two basins, one a little deeper."""
    first, second = rng.dirichlet(np.full(methods, 0.7), size=2)
    return lambda w, _: float(
        min(np.linalg.norm(w - first) ** 2 / 0.4**2, 0.15 + np.linalg.norm(w - second) ** 2 / 0.4**2, 1.0)
    )


def dependent(rng: np.random.Generator, methods: int) -> Loss:
    """The best blend moves with another parameter."""
    ends = [_interior(rng, methods), rng.dirichlet(np.full(methods, 0.5))]

    def loss(w: np.ndarray, params: dict[str, Any]) -> float:
        best = ends[0] + params["alpha"] * (ends[1] - ends[0])
        return float(min(((w - best) @ (w - best)) / 0.5**2, 1.0))

    return loss


def irrelevant(rng: np.random.Generator, methods: int) -> Loss:
    """The blend does not matter."""
    return lambda w, _: 0.0


PROBLEMS: dict[str, Callable[[np.random.Generator, int], Loss]] = {
    "quadratic": quadratic,
    "bowl": bowl,
    "corner": corner,
    "edge": edge,
    "ridge": ridge,
    "plateau": plateau,
    "sharp": sharp,
    "two optima": two,
    "dependent": dependent,
    "irrelevant": irrelevant,
}
#: Largest ratio of regret to TPE's that counts as success, where one is promised.
GOALS = {"quadratic": 0.4, "corner": 0.4, "sharp": 0.8, "irrelevant": 1.1}


def problem(kind: str, methods: int, seed: int) -> Problem:
    rng = np.random.default_rng([seed, methods, *kind.encode()])
    names = tuple(f"w_{i}" for i in range(methods))
    best = {
        "lr": rng.uniform(-3, -1),
        "decay": rng.uniform(-5, -3),
        "alpha": rng.uniform(0.2, 0.8),
        "kappa": rng.uniform(0.2, 0.8),
        "block": int(rng.integers(1, 8)),
        "pattern": str(rng.choice(["element", "channel", "spatial"])),
    }
    return Problem(names, PROBLEMS[kind](rng, methods), best)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(multivariate=True, constant_liar=True, seed=seed)


SAMPLERS: dict[str, Callable[[int, Sequence[str]], BaseSampler]] = {
    "tpe": lambda seed, _: _tpe(seed),
    "efficacy": lambda seed, names: EfficacySampler(_tpe(seed), tuple(names), seed=seed),
    "gp": lambda seed, _: GPSampler(seed=seed),
    "cmaes": lambda seed, _: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed, _: RandomSampler(seed=seed),
}


class Uniform(BaseSampler):
    """Control: an even blend always, TPE for the rest."""


def regret(kind: str, methods: int, seed: int, sampler: str, trials: int = TRIALS) -> float:
    """Noise-free loss of the trial with the best noisy value."""
    task = problem(kind, methods, seed)
    noise = np.random.default_rng([seed, 1]).normal(scale=NOISE, size=trials)
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed, task.names))
    study.optimize(lambda trial: task(trial) + noise[trial.number], n_trials=trials)
    return task.truth(study.best_params), task.blend(task.shares(study.best_params), study.best_params)
