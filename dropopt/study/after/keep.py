"""What ``dropopt train --checkpoints DIR`` keeps while it trains.

    last.pt       weights of the last epoch (state_dict)
    best.pt       weights of the epoch that the training chooses, by the smoothed loss or metric (state_dict)
    summary.csv   one row per epoch: losses, metric, learning rate, seconds and the drop rate at each place
    resume.ckpt   everything that the same command needs to continue after an interruption

The weights are read with ``torch.load(path, weights_only=True)``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError
from dropopt.files import clear_leftovers, write_whole
from dropopt.study.store.queries import metric_key

if TYPE_CHECKING:
    from torch import nn

    from dropopt.training import EpochReport


def _columns(score: str) -> dict[str, str]:
    """The field of an epoch's report for each column; the metric has the name ``score``."""
    names = {name: name for name in ("epoch", "train_loss", "val_loss", "smoothed_loss")}
    return names | {metric_key(score): "val_accuracy", "lr": "lr", "seconds": "seconds"}


class Keeper:
    """Writes the files of a training into a folder, which is created.

    Args:
        folder: The folder.
        score: The name of the metric, which is a column of ``summary.csv``: ``val_accuracy``, ``val_dice``.

    Raises:
        ConfigError: The folder cannot be created.
    """

    def __init__(self, folder: Path, score: str = "accuracy") -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"folder {folder} cannot be created: {error.strerror or error}") from None
        for name in ("last.pt", "best.pt", "summary.csv"):
            clear_leftovers(folder / name)
        self._folder, self._score = folder, score
        self._reports: list[EpochReport] = []

    @property
    def resume(self) -> Path:
        """The checkpoint from which an interrupted training continues."""
        return self._folder / "resume.ckpt"

    def resumed(self, reports: Iterable[EpochReport]) -> None:
        """Take over the reports of the epochs before the interruption."""
        self._reports = list(reports)

    def keep(self, model: nn.Module, report: EpochReport) -> None:
        """Write the files after an epoch.

        Raises:
            ConfigError: A file cannot be written.
        """
        import torch

        best = min((one.objective for one in self._reports if math.isfinite(one.objective)), default=math.inf)
        self._reports.append(report)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        files = {"last.pt": buffer.getvalue(), "summary.csv": _table(self._reports, self._score).encode()}
        if report.objective < best:
            files["best.pt"] = files["last.pt"]
        for name, content in files.items():
            try:
                write_whole(self._folder / name, content)
            except OSError as error:
                raise ConfigError(f"{self._folder / name} cannot be written: {error.strerror or error}") from None


def _table(reports: list[EpochReport], score: str) -> str:
    """The epochs as CSV. A drop rate is the mean over the features of a place."""
    text = io.StringIO()
    columns = _columns(score)
    places = [row["site"] for row in reports[-1].rates]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"rate.{place}" for place in places)])
    for report in reports:
        rates: dict[str, Any] = {row["site"]: row["applied"] for row in report.rates}
        writer.writerow(
            [*(getattr(report, name) for name in columns.values()), *(rates.get(place) for place in places)]
        )
    return text.getvalue()
