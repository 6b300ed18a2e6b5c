"""The files of a study's best trials, as artifacts of the study: configurations, learning curves and weights.

Optuna stores the files in a folder beside the storage, and their names in the study. They belong to the study, since a
finished trial accepts no artifacts.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.experiment import name_of_files
from dropopt.study.store.history import history_of
from dropopt.study.store.keys import CONFIG
from dropopt.study.store.queries import metric_key, task_of
from dropopt.study.store.scale import Scale
from dropopt.study.store.url import file_of
from dropopt.study.store.weights import path_of, remove_others

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from dropopt.config import TaskConfig

#: Trials whose files are kept.
TRIALS = 3
#: The beginning of the name of every such file.
PREFIX = "best-trial-"
#: The key of an artifact in the system attributes of a study, as Optuna writes it.
KEY = "artifacts:"


def artifact_folder(url: str, given: Path | None = None) -> Path | None:
    """Return the folder of the artifacts of a storage.

    Args:
        url: The storage. By default the folder is beside its file.
        given: The folder that the user named.

    Returns:
        The folder; None for a server if none is given.
    """
    if given is not None:
        return given.expanduser().absolute()
    file = file_of(url)
    return None if file is None else file.absolute().with_name(file.name + ".artifacts")


def save_artifacts(study: optuna.Study, folder: Path, storage_hint: str) -> None:
    """Store the files of the best trials of ``study`` in ``folder``, and remove those of former best trials."""
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    shot, files = Snapshot.of(study), name_of_files(study)
    chosen = [trial for trial in shot.ranked if CONFIG in trial.user_attrs][:TRIALS]
    known = _stored(study)
    weights = {_weights(trial): path_of(folder, files, trial.number) for trial in chosen}
    wanted = {name: trial for trial in chosen for name in _names(trial)}
    wanted |= {
        _weights(trial): trial for trial in chosen if weights[_weights(trial)].exists() or _weights(trial) in known
    }
    if wanted.keys() == known.keys():
        remove_others(folder, files, shot.finished)
        return
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    with tempfile.TemporaryDirectory() as place:
        for name in wanted.keys() - known.keys():
            path = Path(place, name)
            if name in weights:
                shutil.copyfile(weights[name], path)
            else:
                _write(study, wanted[name], path, storage_hint)
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)
    for name in known.keys() - wanted.keys():
        study._storage.set_study_system_attr(study._study_id, KEY + known[name], json.dumps(None))
        with suppress(Exception):  # the file may be on another machine
            store.remove(known[name])
    remove_others(folder, files, shot.finished)


def curves_csv(trial: FrozenTrial, task: TaskConfig) -> str:
    """The epochs of a trial as CSV: losses, metric and the drop rate of each place, as far as they were stored."""
    history, scale = history_of(trial), Scale.of_task(task)
    smoothed = {epoch: scale.read(value) for epoch, value in sorted(trial.intermediate_values.items())}
    first = ["epoch", f"smoothed_{scale.name}"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if history is None:
        writer.writerow(first)
        writer.writerows(smoothed.items())
        return file.getvalue()
    places = list(history.rates)
    writer.writerow([*first, "val_loss", metric_key(task.score), "train_loss", *(f"rate:{p}" for p in places)])
    row_of = {epoch: index for index, epoch in enumerate(history.rate_epochs)}
    losses = zip(history.epochs, history.val_loss, history.val_accuracy, history.train_loss, strict=True)
    for epoch, *scores in losses:
        found = [history.rates[place][row_of[epoch]] if epoch in row_of else "" for place in places]
        writer.writerow([epoch, smoothed.get(epoch, ""), *scores, *found])
    return file.getvalue()


def _names(trial: FrozenTrial) -> tuple[str, str]:
    """The names of the files of a trial: its configuration and its curves."""
    return f"{PREFIX}{trial.number}.yaml", f"{PREFIX}{trial.number}-curves.csv"


def _weights(trial: FrozenTrial) -> str:
    """The name of the file of a trial's weights."""
    return f"{PREFIX}{trial.number}-weights.safetensors"


def _write(study: optuna.Study, trial: FrozenTrial, path: Path, storage_hint: str) -> None:
    """Write one of the files of a trial; its suffix says which."""
    from dropopt.export import save
    from dropopt.study.after.export import exported

    if path.suffix == ".csv":
        path.write_text(curves_csv(trial, task_of(study)), encoding="utf-8")
    else:
        configuration, provenance = exported(study, trial, storage_hint)
        save(path, configuration.run, provenance)


def _stored(study: optuna.Study) -> dict[str, str]:
    """The stored files of best trials: the identifier of each artifact by the file's name."""
    found = {}
    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        if key.startswith(KEY) and (artifact := json.loads(value)) and artifact["filename"].startswith(PREFIX):
            found[artifact["filename"]] = artifact["artifact_id"]
    return found
