"""Compare two samplers on the dropout of a small network; about a minute on one core."""

from __future__ import annotations

import optuna
import optunahub

module = optunahub.load_module("benchmarks/dropout_engine")

if __name__ == "__main__":
    problem = module.Problem(epochs=5)
    for sampler in (optuna.samplers.RandomSampler(seed=0), optuna.samplers.TPESampler(seed=0)):
        study = optuna.create_study(directions=problem.directions, sampler=sampler)
        study.optimize(problem, n_trials=20)
        print(type(sampler).__name__, study.best_value)
