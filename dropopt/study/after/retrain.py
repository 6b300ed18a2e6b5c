"""Training with one configuration in this process, and evaluating the network on the test split.

The only other place where the test split is evaluated is :mod:`dropopt.training.scored`, for ``dropopt confirm``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import RunConfig
from dropopt.study.run.errors import StudyError

if TYPE_CHECKING:
    from dropopt.export import Exported
    from dropopt.training import EpochReport, TrainResult


@dataclass(frozen=True)
class Estimate:
    """Accuracy and loss of a network on one split of the data."""

    accuracy: float
    loss: float
    n: int  # number of images


@dataclass(frozen=True)
class Retrained:
    """The result of training with a configuration."""

    result: TrainResult
    validation: Estimate
    test: Estimate
    weights: Mapping[str, Any]  # state_dict of the network


def configured(exported: Exported, options: Mapping[str, Any]) -> RunConfig:
    """The configuration of a file, with ``options`` in place of its training settings."""
    run = exported.run
    if not options:
        return run
    train = type(run.train).parse(run.train.model_dump() | dict(options))
    return run.model_copy(update={"train": train})


def retrain(
    run: RunConfig,
    provenance: Mapping[str, Any],
    *,
    threads: int,
    on_notice: Callable[[str], None],
    on_epoch: Callable[[EpochReport], None],
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

    Raises:
        StudyError: The loss became infinite or NaN.
    """
    import torch

    from dropopt import training

    torch.set_num_threads(threads)
    data = training.prepare(run).data
    for notice in data.notices:
        on_notice(notice)
    if provenance.get("data_fingerprint", data.fingerprint) != data.fingerprint:
        on_notice("the data differ from those of the study, so the study may have trained on images of this test split")
    try:
        result, model, _ = training.train_run(run, on_epoch)
    except training.DivergedError as error:
        raise StudyError(str(error)) from None
    validation = Estimate(result.best_val_accuracy, result.best_val_loss, len(data.validation.labels))
    loss, accuracy = training.evaluate(model, data.test, run.train)
    return Retrained(result, validation, Estimate(accuracy, loss, len(data.test.labels)), model.state_dict())


def save_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Write ``weights`` to ``path``. A failure leaves an existing file unchanged."""
    import torch

    from dropopt.files import write_whole

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StudyError(f"the weights cannot be written to {path}: {error.strerror or error}") from None
