"""Writing to any storage of Optuna, as few times as possible.

Optuna's storages write each parameter, attribute and value on its own, which takes two to five milliseconds of
processor time each on a database. A batch needs one transaction of a SQLite file or PostgreSQL, and one append to a
journal. Other storages receive its parts one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial

from dropopt.study.store import rdb_writing
from dropopt.study.store.batch import Batch


def write(storage: BaseStorage, trial_id: int, batch: Batch) -> None:
    """Store ``batch``.

    Args:
        storage: The storage, as :func:`~dropopt.study.store.opening.open_storage` returns it.
        trial_id: The storage's id of the trial.
        batch: What to write.

    Raises:
        UpdateFinishedTrialError: The trial has ended. Nothing of the batch is stored, except in a storage that receives
            the parts one by one.
    """
    database = database_of(storage)
    if database is not None:
        rdb_writing.write(database, trial_id, batch)
    elif isinstance(storage, JournalStorage):
        _append(storage, trial_id, batch)
    else:
        _one_by_one(storage, trial_id, batch)


def create(storage: BaseStorage, study_id: int, templates: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Create trials, all or none of them where the storage has transactions.

    Args:
        storage: The storage, as :func:`~dropopt.study.store.opening.open_storage` returns it.
        study_id: The storage's id of the study.
        templates: The new trials, without their ids and numbers.

    Returns:
        The trials as they are stored.
    """
    database = database_of(storage)
    if database is not None:
        return rdb_writing.create(database, study_id, templates)
    return [storage.get_trial(storage.create_new_trial(study_id, template)) for template in templates]


def database_of(storage: BaseStorage) -> RDBStorage | None:
    """Return the database of a storage whose dialect of SQL is supported; None for all others."""
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, RDBStorage) and rdb_writing.supports(backend) else None


def version(storage: BaseStorage) -> object:
    """A value that changes whenever another process writes to a SQLite file; None for other storages."""
    database = database_of(storage)
    return None if database is None else rdb_writing.version(database)


def _append(storage: JournalStorage, trial_id: int, batch: Batch) -> None:
    """Append all records of a batch to a journal at once: the state is the last, so what precedes it is accepted."""
    records: list[tuple[JournalOperation, dict[str, Any]]] = [
        (
            JournalOperation.SET_TRIAL_PARAM,
            {"param_name": name, "param_value_internal": value, "distribution": distribution_to_json(distribution)},
        )
        for name, (value, distribution) in batch.params.items()
    ]
    records += [
        (JournalOperation.SET_TRIAL_USER_ATTR, {"user_attr": {key: value}}) for key, value in batch.user_attrs.items()
    ]
    records += [
        (JournalOperation.SET_TRIAL_SYSTEM_ATTR, {"system_attr": {key: value}})
        for key, value in batch.system_attrs.items()
    ]
    records += [
        (JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, {"step": step, "intermediate_value": value})
        for step, value in batch.reports.items()
    ]
    if batch.state is not None:
        ended = {"datetime_complete": datetime.now(UTC).isoformat(timespec="microseconds")}
        records.append(
            (JournalOperation.SET_TRIAL_STATE_VALUES, {"state": batch.state, "values": batch.values, **ended})
        )
    with storage._thread_lock:
        worker = storage._replay_result.worker_id
        logs = [{"op_code": code, "worker_id": worker, "trial_id": trial_id, **rest} for code, rest in records]
        storage._backend.append_logs(logs)
        _replay(storage)


def _replay(storage: JournalStorage) -> None:
    """Read the journal to its end; then raise the first error about a record of this process, if there was one.

    Optuna stops at each record that is refused. The rest would otherwise be refused in a later, unrelated call.
    """
    refused: Exception | None = None
    while True:
        before = storage._replay_result.log_number_read
        try:
            storage._sync_with_backend()
        except (UpdateFinishedTrialError, ValueError, KeyError) as error:
            if storage._replay_result.log_number_read == before:  # the file cannot be read
                raise
            refused = refused or error
        else:
            break
    if refused is not None:
        raise refused


def _one_by_one(storage: BaseStorage, trial_id: int, batch: Batch) -> None:
    for name, (value, distribution) in batch.params.items():
        storage.set_trial_param(trial_id, name, value, distribution)
    for key, attribute in batch.user_attrs.items():
        storage.set_trial_user_attr(trial_id, key, attribute)
    for key, attribute in batch.system_attrs.items():
        storage.set_trial_system_attr(trial_id, key, attribute)
    for step, report in batch.reports.items():
        storage.set_trial_intermediate_value(trial_id, step, report)
    if batch.state is not None:
        storage.set_trial_state_values(trial_id, batch.state, batch.values)
