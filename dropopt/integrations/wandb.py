"""The trials of a study in Weights & Biases: one run for each trial, in a group of the study's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropopt.integrations import trials
from dropopt.integrations.missing import missing

try:
    import wandb
except ImportError as error:
    raise missing("wandb", error) from None

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Characters of the longest tag that Weights & Biases allows.
_LONGEST = 64


class WandbCallback:
    """Logs each finished trial as a run: parameters as its config, results as its summary, and the learning curve.

    The id of a run is made of the study and the trial, so a trial that is logged again continues its run.

    Args:
        project: The project. Default: ``"dropopt"``.
        **options: Further arguments of ``wandb.init``, such as ``entity`` or ``mode="offline"``.

    Example:
        ``study.optimize(objective, callbacks=[WandbCallback("my-project")])``
    """

    def __init__(self, project: str = "dropopt", **options: Any) -> None:
        self._options = {"project": project, **options}

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Log one trial."""
        record = trials.record_of(study, trial)
        options = {
            "id": f"{record.slug}-{record.number}",
            "name": record.name,
            "group": record.study,
            "config": record.params,
            "tags": [value[:_LONGEST] for value in record.tags.values() if value],
            "resume": "allow",
            "reinit": "create_new",
        }
        with wandb.init(**options | self._options) as run:
            for epoch, value in record.curve.items():
                run.log({"objective": value}, step=epoch)
            run.summary.update({**record.metrics, **record.tags})


def log_study(
    study: optuna.Study | str, project: str = "dropopt", *, storage: str | None = None, **options: Any
) -> int:
    """Log the finished trials of a study; see :func:`dropopt.integrations.trials.log_study`.

    Further ``options`` are arguments of ``wandb.init``.
    """
    return trials.log_study(study, WandbCallback(project, **options), storage=storage)
