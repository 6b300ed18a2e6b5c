"""Problem: train a convolutional network with a dropout engine and return its validation loss."""

from __future__ import annotations

from typing import Any

import optuna
import optunahub

from dropopt.config import RunConfig
from dropopt.study import Space
from dropopt.training import EpochReport, prepare, train_run

__all__ = ["Problem"]


class Problem(optunahub.benchmarks.BaseProblem):
    """The smoothed validation loss of a network, by the settings of its dropout, learning rate and weight decay.

    Args:
        space: Name of a search space of dropopt (``compact``, ``paper``, ``blend``, ``dropout``, ``no_dropout``), or
            the path of a file.
        data: Name of a data set. Default: scikit-learn's digits, which need no download.
        model: Name of a network, such as ``small`` or ``torchvision:resnet18``.
        epochs: Epochs of each training, at least 1.
        seed: Seed of each training; the same parameters give the same value.
    """

    def __init__(
        self, space: str = "compact", *, data: str = "digits", model: str = "small", epochs: int = 20, seed: int = 0
    ) -> None:
        settings = {
            "data": {"name": data},
            "model": {"name": model},
            "train": {"epochs": epochs, "seed": seed, "channels_last": True},
        }
        whole = Space.load(space)
        self._base = whole.base(RunConfig.parse(settings))
        prepared = prepare(self._base)
        self._space = whole.offered(prepared.sites)
        self._classes = len(prepared.data.classes)

    @property
    def search_space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Every parameter of the space; some have no effect, depending on the value of others."""
        parameters = self._space.bound(self._base).parameters
        return {parameter.name: parameter.distribution(self._classes) for parameter in parameters}

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        """The loss is minimised."""
        return [optuna.study.StudyDirection.MINIMIZE]

    def __call__(self, trial: optuna.Trial) -> float:
        """Suggest the parameters that have an effect, train, report the loss of each epoch, and stop if pruned."""

        def report(epoch: EpochReport) -> None:
            trial.report(epoch.smoothed_loss, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        result, *_ = train_run(self._space.suggest(trial, self._classes, self._base), report)
        return result.smoothed_loss

    def evaluate(self, params: dict[str, Any]) -> float:
        """Train with these parameters."""
        trial: Any = optuna.trial.FixedTrial(params)
        result, *_ = train_run(self._space.suggest(trial, self._classes, self._base))
        return result.smoothed_loss
