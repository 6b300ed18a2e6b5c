"""The trials of a study in TensorBoard: learning curves, and hyperparameters with results in the tab HPARAMS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.integrations import trials
from dropopt.integrations.missing import missing

try:
    import tensorboard as _tensorboard  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams
except ImportError as error:
    raise missing("tensorboard", error) from None

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


class TensorBoardCallback:
    """Writes each finished trial to a folder of its own, ``FOLDER/STUDY/trial-N``. A folder that exists is skipped.

    Args:
        folder: The folder that TensorBoard shows.

    Example:
        ``study.optimize(objective, callbacks=[TensorBoardCallback("runs/tensorboard")])``
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write one trial."""
        record = trials.record_of(study, trial)
        folder = self.folder / record.slug / record.name
        if folder.exists():
            return
        with SummaryWriter(str(folder)) as writer:
            for epoch, value in record.curve.items():
                writer.add_scalar("objective", value, epoch)
            metrics = {f"result/{name}": value for name, value in record.metrics.items()}
            summaries: Any = hparams  # torch's function has no annotations
            for summary in summaries(record.params | record.tags, metrics):
                writer._get_file_writer().add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value, record.number)


def log_study(study: optuna.Study | str, folder: str | os.PathLike[str], *, storage: str | None = None) -> int:
    """Write the finished trials of a study; see :func:`dropopt.integrations.trials.log_study`."""
    return trials.log_study(study, TensorBoardCallback(folder), storage=storage)
