"""Find the shares of three ingredients; the best blend is 0.6, 0.3 and 0.1."""

from __future__ import annotations

import optuna
import optunahub

module = optunahub.load_module("samplers/dropout_blend")

NAMES = ("w_a", "w_b", "w_c")
BEST = (0.6, 0.3, 0.1)


def objective(trial: optuna.Trial) -> float:
    """Return the squared distance of the shares from the best blend."""
    weights = [trial.suggest_float(name, 0.0, 1.0) for name in NAMES]
    shares = [weight / sum(weights) for weight in weights]
    return float(sum((share - best) ** 2 for share, best in zip(shares, BEST, strict=True)))


if __name__ == "__main__":
    study = optuna.create_study(sampler=module.EfficacySampler(blend=NAMES, seed=0))
    study.optimize(objective, n_trials=40)
    total = sum(study.best_params.values())
    print({name: round(value / total, 2) for name, value in study.best_params.items()})
