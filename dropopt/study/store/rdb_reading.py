"""Reading from the tables of Optuna's databases: SQLite files and PostgreSQL.

The statements read what :class:`optuna.storages.RDBStorage` reads, without loading rows into objects first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sql
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.engine import Connection

from dropopt.study.store.validation import readable

#: The number of ids in one statement. Databases limit it.
IDS = 500
#: An id that no trial has: all of them are lower.
_LAST = 2**31 - 1

_TRIALS: Any = models.TrialModel.__table__
_IDS: Any = sql.bindparam("ids", expanding=True)

# SQLAlchemy takes longer to build a statement than to run it.
_STUDY = sql.select(models.StudyModel.study_id).where(models.StudyModel.study_id == sql.bindparam("study"))
_NEW_AND_SOME = sql.select(
    *(_TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete"))
).where(
    (_TRIALS.c.study_id == sql.bindparam("study"))
    & ((_TRIALS.c.trial_id > sql.bindparam("after")) | _TRIALS.c.trial_id.in_(_IDS))
)

#: What belongs to a trial: the columns of each table, and the column that gives their order.
_PARTS: dict[str, tuple[Any, tuple[str, ...], str | None]] = {
    "params": (models.TrialParamModel, ("param_name", "param_value", "distribution_json"), "param_id"),
    "values": (models.TrialValueModel, ("value", "value_type"), "objective"),
    "user": (models.TrialUserAttributeModel, ("key", "value_json"), None),
    "system": (models.TrialSystemAttributeModel, ("key", "value_json"), None),
    "reports": (models.TrialIntermediateValueModel, ("step", "intermediate_value", "intermediate_value_type"), None),
}


def read(storage: RDBStorage, study_id: int, ids: Sequence[int], after: int) -> list[FrozenTrial]:
    """Return trials of a study, by number.

    Args:
        storage: The database.
        study_id: The id of the study.
        ids: The ids of trials to read.
        after: All trials with a higher id are read as well; 0 to read all trials of the study.

    Raises:
        KeyError: There is no such study.
    """
    with storage.engine.connect() as connection:
        if connection.execute(_STUDY, {"study": study_id}).first() is None:
            raise KeyError(f"there is no study with the id {study_id}")
        trials: list[Any] = []
        for begin in range(0, len(ids) or 1, IDS):
            values = {"study": study_id, "after": _LAST if begin else after, "ids": list(ids[begin : begin + IDS])}
            trials += connection.execute(_NEW_AND_SOME, values)
        found: list[FrozenTrial] = []
        # A trial is read before the rows that belong to it, so that a finished one has all of them.
        for begin in range(0, len(trials), IDS):
            some = trials[begin : begin + IDS]
            parts = _read_parts(connection, [trial.trial_id for trial in some])
            for trial in some:
                with readable(f"trial {trial.number}"):
                    found.append(_frozen(trial, parts))
    return sorted(found, key=lambda trial: trial.number)


def _read_parts(connection: Connection, ids: list[int]) -> dict[str, dict[int, list[Any]]]:
    """The rows that belong to trials, by part and by the id of the trial."""
    parts: dict[str, dict[int, list[Any]]] = {}
    for part in _PARTS:
        parts[part] = defaultdict(list)
        for trial_id, *row in connection.execute(_rows(part), {"ids": ids}):
            parts[part][trial_id].append(row)
    return parts


@cache
def _rows(part: str) -> Any:
    """The statement that reads what belongs to some trials."""
    model, columns, order = _PARTS[part]
    table = model.__table__
    query = sql.select(table.c.trial_id, *(table.c[name] for name in columns)).where(table.c.trial_id.in_(_IDS))
    return query.order_by(table.c.trial_id, table.c[order]) if order else query


def _frozen(trial: Any, parts: dict[str, dict[int, list[Any]]]) -> FrozenTrial:
    params, values, user, system, reports = (rows.get(trial.trial_id, ()) for rows in parts.values())
    distributions = {name: _distribution(text) for name, _, text in params}
    value_of = models.TrialValueModel.stored_repr_to_value
    report_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return FrozenTrial(
        trial_id=trial.trial_id,
        number=trial.number,
        state=trial.state,
        value=None,
        values=[value_of(*row) for row in values] or None,
        datetime_start=_local(trial.datetime_start),
        datetime_complete=_local(trial.datetime_complete),
        params={name: distributions[name].to_external_repr(value) for name, value, _ in params},
        distributions=distributions,
        user_attrs={key: json.loads(text) for key, text in user},
        system_attrs={key: json.loads(text) for key, text in system},
        intermediate_values={step: report_of(*row) for step, *row in reports},
    )


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """A distribution from its text; all trials share it, as nothing changes a distribution."""
    return json_to_distribution(text)


def _local(time: datetime | None) -> datetime | None:
    """A time of the tables, which is in UTC, as Optuna gives it: local, and without a time zone."""
    return None if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
