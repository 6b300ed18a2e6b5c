"""Training with one configuration in this process, and evaluating the network on the test split.

The only other place where the test split is evaluated is :mod:`dropopt.training.scored`, for ``dropopt confirm``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import RunConfig
from dropopt.files import write_whole
from dropopt.study.define.settings import Setting, changed_run
from dropopt.study.run.errors import StudyError

if TYPE_CHECKING:
    from torch import nn

    from dropopt.export import Exported
    from dropopt.training import Dataset, EpochReport, TrainResult


@dataclass(frozen=True)
class Estimate:
    """Accuracy, or another metric, and loss of a network on one split of the data."""

    accuracy: float
    loss: float
    n: int  # number of images
    shares: bool = True  # whether the accuracy is the share of the images that are classified correctly


@dataclass(frozen=True)
class Retrained:
    """The result of training with a configuration."""

    result: TrainResult
    validation: Estimate
    test: Estimate
    weights: Mapping[str, Any]  # state_dict of the network
    run: RunConfig
    network: nn.Module
    data: Dataset


def configured(exported: Exported, options: Mapping[str, Any], settings: Sequence[Setting] = ()) -> RunConfig:
    """The configuration of a file, with ``options`` in place of training settings, and ``settings`` of any section."""
    by_option = [Setting("train", name, value) for name, value in options.items()]
    return changed_run(exported.run, [*by_option, *settings])


def retrain(
    run: RunConfig,
    provenance: Mapping[str, Any],
    *,
    threads: int,
    on_notice: Callable[[str], None],
    on_epoch: Callable[[EpochReport], None],
    checkpoints: Path | None = None,
    check: Callable[[Dataset], None] | None = None,
) -> Retrained:
    """Train with ``run``, then evaluate the network on the test split.

    The modules of the user's own code must be importable; see :func:`dropopt.trust.settle`.

    Args:
        run: The configuration.
        provenance: The provenance of ``run``. A notice is sent if the data differ from those of the study.
        threads: Threads that torch uses. With one thread, as in a study, the same configuration gives the same
            network on the same machine, bit for bit.
        on_notice: Called with each notice about the data.
        on_epoch: Called with the report of each epoch.
        checkpoints: A folder for the files of :class:`~dropopt.study.after.keep.Keeper`; None to keep nothing.
        check: Called with the data before the training; an error of it ends the command.

    Raises:
        ConfigError: The folder cannot be written.
        StudyError: The loss became infinite or NaN.
    """
    import torch

    from dropopt import training
    from dropopt.study.after.keep import Keeper  # loads Optuna
    from dropopt.training.pipeline import assembled

    torch.set_num_threads(threads)
    task = training.task_of(run.task)
    prepared = training.prepare(run)
    data = prepared.data
    if check is not None:
        check(data)
    for notice in prepared.notices:
        on_notice(notice)
    known = provenance.get("data_fingerprint", {})
    if not isinstance(known, Mapping) or not known.items() <= data.fingerprint.items():
        on_notice("the data differ from those of the study, so the study may have trained on images of this test split")
    keeper = Keeper(checkpoints, run.task.score) if checkpoints is not None else None
    try:
        with assembled(run) as (model, engine, _):

            def on_report(report: EpochReport) -> None:
                if keeper is not None:
                    keeper.keep(model, report)
                on_epoch(report)

            result = training.fit(
                model,
                engine,
                data,
                run.train,
                on_report,
                checkpoint=keeper.resume if keeper is not None else None,
                on_resume=keeper.resumed if keeper is not None else None,
                task=task,
            )
    except training.DivergedError as error:
        raise StudyError(str(error)) from None
    shares = run.task.metric == "accuracy" and data.train.head(1).labels.ndim == 1
    validation = Estimate(result.best_val_accuracy, result.best_val_loss, len(data.validation), shares)
    loss, accuracy = training.evaluate(model, data.test, run.train, task)
    test = Estimate(accuracy, loss, len(data.test), shares)
    return Retrained(result, validation, test, model.state_dict(), run, model, data)


def save_model(done: Retrained, provenance: Mapping[str, Any], path: Path) -> None:
    """Write the network of ``done`` as a file that stands alone; see :mod:`dropopt.standalone`."""
    from dropopt.standalone.card import Score
    from dropopt.standalone.describe import describe
    from dropopt.standalone.file import write_model

    estimates = {"validation": done.validation, "test": done.test}
    scores = {name: Score.of(one.accuracy, one.loss, one.n) for name, one in estimates.items()}
    card = describe(done.network, done.data, done.run, done.result, scores=scores, provenance=provenance)
    write_model(path, card, done.weights, done.result.rates)


def save_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Write ``weights`` to ``path``. A failure leaves an existing file unchanged."""
    import torch

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StudyError(f"the weights cannot be written to {path}: {error.strerror or error}") from None
