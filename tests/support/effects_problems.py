"""Objectives whose effects are known, for tests and benchmarks of the effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import optuna

from dropopt.study.effects.factors import Condition, Factor, Points, activity
from dropopt.study.effects.profiles import levels_of, uniform

#: A response (n,) of configurations.
Response = Callable[[Points], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """An objective: its factors, its response without noise, and the standard deviation of its noise."""

    factors: tuple[Factor, ...]
    response: Response
    noise: float
    ratio: bool = False  # the objective is the exponential of the response

    def ask(self, trial: optuna.Trial) -> float:
        """Suggest the factors that are used and return the response."""
        values = [np.zeros(1) for _ in self.factors]
        for index, factor in enumerate(self.factors):
            if not activity(self.factors, values)[0, index]:
                continue
            if factor.kind == "choice":
                values[index][0] = factor.choices.index(trial.suggest_categorical(factor.name, factor.choices))
            else:
                values[index][0] = trial.suggest_float(factor.name, 0.0, 1.0)
        return float(self.response(Points(tuple(values), activity(self.factors, values)))[0])


def number(name: str, *conditions: Condition) -> Factor:
    return Factor(name, "number", (name,), high=1.0, conditions=conditions)


def choice(name: str, count: int) -> Factor:
    return Factor(name, "choice", (name,), choices=tuple("abcdefgh"[:count]))


def _bowl(x: np.ndarray, at: float) -> np.ndarray:
    return (x - at) ** 2


def additive(rng: np.random.Generator) -> Problem:
    """Four numbers and a choice add up; a fifth number and a second choice are inert."""
    factors = (*(number(f"x{i}") for i in range(5)), choice("c", 3), choice("d", 4))
    at, size, level = rng.uniform(size=5), rng.exponential(size=5), rng.normal(size=3)

    def response(p: Points) -> np.ndarray:
        x, c = p.values[:5], p.values[5].astype(int)
        curves = 3 * size[0] * _bowl(x[0], at[0]) + 3 * size[1] * _bowl(x[1], at[1])
        return curves + size[2] * x[2] + size[3] * np.sin(4 * (x[3] - at[3])) + 0.7 * level[c]

    return Problem(factors, response, 0.2)


def together(rng: np.random.Generator) -> Problem:
    """Main effects, and two pairs of factors whose effects depend on each other."""
    factors = (*(number(f"x{i}") for i in range(5)), choice("c", 3))
    at, slope = rng.uniform(size=5), rng.normal(size=3)

    def response(p: Points) -> np.ndarray:
        x, c = p.values[:5], p.values[5].astype(int)
        pairs = 3 * (x[0] - 0.5) * (x[1] - at[1]) + slope[c] * (x[2] - 0.5)
        return pairs + 2 * _bowl(x[0], at[0]) + x[2] * at[2]

    return Problem(factors, response, 0.15)


def one_choice(rng: np.random.Generator) -> Problem:
    """A choice explains everything; five numbers are inert."""
    factors = (choice("c", 4), *(number(f"x{i}") for i in range(5)))
    level = rng.permutation([0.0, 0.8, 1.0, 1.5])
    return Problem(factors, lambda p: np.asarray(level[p.values[0].astype(int)]), 0.15)


def conditional(rng: np.random.Generator) -> Problem:
    """A choice decides which of two further numbers is used."""
    factors = (
        choice("kind", 3),
        number("rate"),
        number("block", Condition(0, (1,))),
        number("share", Condition(0, (0, 1))),
        number("inert"),
    )
    level, at, size = rng.normal(size=3), rng.uniform(size=3), rng.exponential(size=3)

    def response(p: Points) -> np.ndarray:
        kind, rate, block, share, _ = p.values
        own = 3 * size[0] * _bowl(block, at[0]) * p.active[:, 2] + 2 * size[1] * (share - at[1]) * p.active[:, 3]
        return level[kind.astype(int)] + own + 3 * _bowl(rate, at[2])

    return Problem(factors, response, 0.2)


def losses(rng: np.random.Generator) -> Problem:
    """Losses that differ by factors: training diverges at a high learning rate."""
    factors = (*(number(name) for name in ("lr", "rate", "decay", "alpha")), choice("pattern", 4))
    at, size, level = rng.uniform(0.2, 0.7, size=4), rng.exponential(size=4), rng.normal(size=4)

    def response(p: Points) -> np.ndarray:
        lr, rate, decay, _, pattern = p.values
        smooth = 3 * size[0] * _bowl(lr, at[0]) + 2 * size[1] * _bowl(rate, at[1]) + 0.3 * size[2] * decay
        return smooth + 1.5 / (1 + np.exp(-30 * (lr - 0.85))) + 0.3 * level[pattern.astype(int)]

    return Problem(factors, response, 0.1, ratio=True)


def interior(rng: np.random.Generator) -> Problem:
    """A sharp basin in six numbers: few trials are outside it once a sampler has found it."""
    factors = tuple(number(f"x{i}") for i in range(6))
    at = rng.uniform(0.2, 0.8, size=6)

    def response(p: Points) -> np.ndarray:
        away = sum(weight * _bowl(p.values[i], at[i]) for i, weight in enumerate((6, 3, 1, 0.5, 0, 0)))
        return np.asarray(np.sqrt(0.05 + away))

    return Problem(factors, response, 0.1)


def matched(rng: np.random.Generator) -> Problem:
    """Two numbers have to match each other, and two others to add up to 1: no value of either is the best."""
    factors = (*(number(f"x{i}") for i in range(5)), choice("c", 3))
    at, level = rng.uniform(size=1), rng.normal(size=3)

    def response(p: Points) -> np.ndarray:
        x, c = p.values[:5], p.values[5].astype(int)
        return 2 * _bowl(x[0], x[1]) + 2 * _bowl(x[2], 1 - x[3]) + _bowl(x[4], at[0]) + 0.3 * level[c]

    return Problem(factors, response, 0.1)


PROBLEMS: dict[str, Callable[[np.random.Generator], Problem]] = {
    "additive": additive,
    "interactions": together,
    "one choice": one_choice,
    "matched": matched,
    "conditional": conditional,
    "losses": losses,
    "basin": interior,
}


def problem(kind: str, seed: int) -> Problem:
    """The objective of a seed."""
    return PROBLEMS[kind](np.random.default_rng([seed, *kind.encode()]))


def study_of(task: Problem, sampler: str, count: int, seed: int, *, pruned: float = 0.0) -> optuna.Study:
    """A study of the objective with noise.

    With ``pruned``, that fraction of the trials, among the worse half so far, is stopped after a first report.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(sampler=samplers[sampler](seed=seed))
    rng = np.random.default_rng([seed, 1])
    seen: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        value = task.ask(trial) + task.noise * rng.normal()
        early = value + task.noise * rng.normal()
        trial.report(float(np.exp(early)) if task.ratio else early, 0)
        seen.append(early)
        if len(seen) > 8 and early > np.median(seen) and rng.uniform() < 2 * pruned:
            raise optuna.TrialPruned
        return float(np.exp(value)) if task.ratio else value

    study.optimize(objective, n_trials=count)
    return study


def true_indices(task: Problem, count: int = 2**16) -> tuple[np.ndarray, np.ndarray]:
    """First-order and total Sobol indices, by the estimators of Saltelli and Jansen (2010) on random points."""
    rng = np.random.default_rng(0)
    base, other = (_random(task.factors, count, rng) for _ in range(2))
    a, b = task.response(base), task.response(other)
    variance = np.concatenate([a, b]).var()
    alone, whole = [], []
    for index in range(len(task.factors)):
        values = [
            own if d != index else new for d, (own, new) in enumerate(zip(base.values, other.values, strict=True))
        ]
        mixed = task.response(Points(tuple(values), activity(task.factors, values)))
        alone.append(np.mean(b * (mixed - a)) / variance)
        whole.append(0.5 * np.mean((a - mixed) ** 2) / variance)
    return np.clip(alone, 0, 1), np.clip(whole, 0, 1)


def _random(factors: tuple[Factor, ...], count: int, rng: np.random.Generator) -> Points:
    values = [
        rng.integers(len(f.choices), size=count).astype(float) if f.kind == "choice" else rng.uniform(size=count)
        for f in factors
    ]
    return Points(tuple(values), activity(factors, values))


def true_costs(task: Problem, index: int, count: int = 2**13) -> np.ndarray:
    """The lowest response (levels,) for each level of a factor, by random search in rounds."""
    rng, found = np.random.default_rng(0), []
    start = uniform(task.factors, count)
    for setting in levels_of(task.factors[index])[2]:
        values = [value.copy() for value in start.values]
        for width in (0.0, 0.1, 0.03, 0.01, 0.003):
            for d, factor in enumerate(task.factors):
                if factor.kind == "number":
                    values[d] = np.clip(values[d] + width * rng.normal(size=len(values[d])), 0, 1)
            _set(task, values, index, setting, rng)
            height = task.response(Points(tuple(values), activity(task.factors, values)))
            lowest = float(height.min())
            best = np.argsort(height)[:64]
            values = [np.repeat(value[best], 32) for value in values]
            for value in values:
                value[:1] = value[0]
        found.append(lowest)
    return np.array(found)


def true_averages(task: Problem, index: int, count: int = 2**13) -> np.ndarray:
    """The mean response (levels,) for each level of a factor, over random draws of the others."""
    rng, start = np.random.default_rng(0), uniform(task.factors, count)
    found = []
    for setting in levels_of(task.factors[index])[2]:
        values = [value.copy() for value in start.values]
        _set(task, values, index, setting, rng)
        found.append(float(task.response(Points(tuple(values), activity(task.factors, values))).mean()))
    return np.array(found)


def _set(task: Problem, values: list[np.ndarray], index: int, setting: float, rng: np.random.Generator) -> None:
    """Set a factor to a level, and the factors that decide about it to values that allow it."""
    values[index][:] = setting
    for condition in task.factors[index].conditions:
        wrong = ~np.isin(values[condition.parent], condition.allowed)
        values[condition.parent][wrong] = rng.choice(condition.allowed, size=int(wrong.sum()))
