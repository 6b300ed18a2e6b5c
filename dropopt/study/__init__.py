"""Hyperparameter studies of the engine on Optuna."""
