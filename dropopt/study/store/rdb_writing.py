"""Writing to the tables of Optuna's databases: SQLite files and PostgreSQL.

The statements write the same rows as :class:`optuna.storages.RDBStorage`, without loading rows into objects first.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sql
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from dropopt.study.store.batch import Batch

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

_STUDIES: Any = models.StudyModel.__table__
_TRIALS: Any = models.TrialModel.__table__
_PARAMS: Any = models.TrialParamModel.__table__
_USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
_SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
_REPORTS: Any = models.TrialIntermediateValueModel.__table__
_VALUES: Any = models.TrialValueModel.__table__

_UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)

# SQLAlchemy takes longer to build a statement than to run it.
_STATE = sql.select(_TRIALS.c.state).where(_TRIALS.c.trial_id == sql.bindparam("id")).with_for_update()
_END = (
    sql.update(_TRIALS)
    .where((_TRIALS.c.trial_id == sql.bindparam("id")) & _TRIALS.c.state.in_(_UNFINISHED))
    .values(state=sql.bindparam("ended"), datetime_complete=sql.bindparam("time"))
)
#: The lock orders the processes that create trials, as in Optuna: numbers are contiguous.
_LOCK = sql.select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == sql.bindparam("study")).with_for_update()
_NEW = sql.insert(_TRIALS).values(
    number=sql.select(sql.func.count()).where(_TRIALS.c.study_id == sql.bindparam("study")).scalar_subquery(),
    study_id=sql.bindparam("study"),
    state=sql.bindparam("begun"),
    datetime_start=sql.bindparam("start"),
    datetime_complete=sql.bindparam("complete"),
)
_NUMBER = sql.select(_TRIALS.c.number).where(_TRIALS.c.trial_id == sql.bindparam("id"))


def supports(storage: RDBStorage) -> bool:
    """Whether the statements of this module can be used with a storage."""
    return storage.engine.name in _INSERTS


def write(storage: RDBStorage, trial_id: int, batch: Batch) -> None:
    """Store ``batch`` in one transaction.

    Raises:
        UpdateFinishedTrialError: The trial has ended; nothing is stored.
        KeyError: There is no such trial.
    """
    with storage.engine.begin() as connection:
        _check(connection, trial_id)
        if batch.state is not None:
            ended = {"id": trial_id, "ended": batch.state, "time": _utc(datetime.now(UTC))}
            if not connection.execute(_END, ended).rowcount:
                raise UpdateFinishedTrialError(f"the trial with the id {trial_id} has ended")
        _insert(connection, trial_id, batch)
    if batch.state is not None and storage.engine.name == "sqlite":
        _sync(storage)


def create(storage: RDBStorage, study_id: int, templates: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Create trials in one transaction, and return them as they are stored.

    Raises:
        KeyError: There is no such study.
    """
    made = []
    with storage.engine.begin() as connection:
        if connection.execute(_LOCK, {"study": study_id}).first() is None:
            raise KeyError(f"there is no study with the id {study_id}")
        for template in templates:
            row = {
                "study": study_id,
                "begun": template.state,
                "start": _utc(template.datetime_start),
                "complete": _utc(template.datetime_complete),
            }
            inserted = connection.execute(_NEW, row)
            trial_id = inserted.inserted_primary_key[0] if inserted.inserted_primary_key else 0
            number = connection.execute(_NUMBER, {"id": trial_id}).scalar_one()
            distributions = template.distributions
            params = {
                name: (distributions[name].to_internal_repr(value), distributions[name])
                for name, value in template.params.items()
            }
            content = Batch(params, template.user_attrs, template.system_attrs, template.intermediate_values)
            content.values = template.values
            _insert(connection, trial_id, content)
            stored = copy.deepcopy(template)  # the caller may change its own
            stored._trial_id, stored.number = trial_id, number
            made.append(stored)
    return made


def version(storage: RDBStorage) -> object:
    """A value that changes when another connection writes to a SQLite file; None for other databases."""
    if storage.engine.name != "sqlite":
        return None
    with storage.engine.connect() as connection:
        return connection.exec_driver_sql("PRAGMA data_version").scalar()


def _check(connection: Connection, trial_id: int) -> None:
    """Check that a trial exists and has not ended, and lock its row where the database can."""
    row = connection.execute(_STATE, {"id": trial_id}).first()
    if row is None:
        raise KeyError(f"there is no trial with the id {trial_id}")
    if row[0].is_finished():
        raise UpdateFinishedTrialError(f"the trial with the id {trial_id} has ended")


def _insert(connection: Connection, trial_id: int, batch: Batch) -> None:
    """Insert the rows of a batch. Rows that exist are replaced, except parameters, which never change."""
    dialect = connection.engine.name
    params = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(distribution),
        }
        for name, (value, distribution) in batch.params.items()
    ]
    if params:
        connection.execute(_insert_params(dialect), params)
    for table, attributes in ((_USER_ATTRS, batch.user_attrs), (_SYSTEM_ATTRS, batch.system_attrs)):
        if attributes:
            rows = [
                {"trial_id": trial_id, "key": key, "value_json": json.dumps(fact)} for key, fact in attributes.items()
            ]
            connection.execute(_upsert(dialect, table, "key"), rows)
    if batch.reports:
        stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        names = ("trial_id", "step", "intermediate_value", "intermediate_value_type")
        rows = [
            dict(zip(names, (trial_id, step, *stored(value)), strict=True)) for step, value in batch.reports.items()
        ]
        connection.execute(_upsert(dialect, _REPORTS, "step"), rows)
    if batch.values:
        names = ("trial_id", "objective", "value", "value_type")
        kinds = map(models.TrialValueModel.value_to_stored_repr, batch.values)
        rows = [dict(zip(names, (trial_id, index, *kind), strict=True)) for index, kind in enumerate(kinds)]
        connection.execute(_upsert(dialect, _VALUES, "objective"), rows)


@cache
def _insert_params(dialect: str) -> Any:
    return _INSERTS[dialect](_PARAMS).on_conflict_do_nothing()


@cache
def _upsert(dialect: str, table: Any, key: str) -> Any:
    """The statement that inserts a row of ``table`` or replaces the one with the same trial and ``key``."""
    statement = _INSERTS[dialect](table)
    fixed = ("trial_id", key)
    changed = [column.name for column in table.columns if column.name not in fixed and not column.primary_key]
    replaced = {name: statement.excluded[name] for name in changed}
    return statement.on_conflict_do_update(index_elements=fixed, set_=replaced)


def _utc(time: datetime | None) -> datetime | None:
    """Return a time as the tables have it: in UTC, and without a time zone."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def _sync(storage: RDBStorage) -> None:
    """Make the end of a trial durable, even if the power fails: the other transactions do not wait for the disk."""
    with suppress(OSError):  # there is no such file if the journal mode cannot be changed
        descriptor = os.open(f"{storage.engine.url.database}-wal", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
