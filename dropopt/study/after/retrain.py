"""Training with one configuration in this process, and the one look at the test split."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig
from dropopt.owncode import make_importable
from dropopt.study.define import shipped
from dropopt.study.run.errors import StudyError

if TYPE_CHECKING:
    from dropopt.export import Exported
    from dropopt.training import EpochReport, TrainResult


@dataclass(frozen=True)
class Estimate:
    """Accuracy and loss of a network on one split."""

    accuracy: float
    loss: float
    n: int  # images of the split


@dataclass(frozen=True)
class Retrained:
    """What training with a configuration gave."""

    result: TrainResult
    validation: Estimate
    test: Estimate
    weights: Mapping[str, Any]


def configured(exported: Exported, options: Mapping[str, Any]) -> RunConfig:
    """The configuration of a file; ``options`` are training settings that override it."""
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
    """Train with ``run`` and read the test split.

    With one thread, as in a study, the same configuration gives the same network on the same machine, bit for bit.
    """
    # `module:function` may name a file in the current folder, or else a shipped script.
    make_importable(Path.cwd(), first=True)
    make_importable(shipped.folder("studies"), first=False)

    import torch

    from dropopt import training

    torch.set_num_threads(threads)
    data = training.prepare(run)
    for notice in data.notices:
        on_notice(notice)
    if provenance.get("data_fingerprint", data.fingerprint) != data.fingerprint:
        on_notice("the data are not those of the study: it may have trained on what is tested on now")
    try:
        result, model, _ = training.train_run(run, on_epoch)
    except training.DivergedError as error:
        raise StudyError(str(error)) from None
    validation = Estimate(result.best_val_accuracy, result.best_val_loss, len(data.validation.labels))
    loss, accuracy = training.evaluate(model, data.test, run.train)
    return Retrained(result, validation, Estimate(accuracy, loss, len(data.test.labels)), model.state_dict())


def save_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Write ``weights`` to ``path``, whole or not at all."""
    import torch

    from dropopt.files import write_whole

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StudyError(f"the weights cannot be written to {path}: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Before minutes of training, not after."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'its folder does not exist'}"
        )
