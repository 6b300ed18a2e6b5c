"""Reading what has changed in a study, from any storage of Optuna.

Optuna builds a list of all trials, in Python, each time. A worker of a study with thousands of trials would spend more
time on that than on everything else. Finished trials never change, so that a worker needs only the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial

from dropopt.study.store import rdb_reading
from dropopt.study.store.writing import database_of


def changed(
    storage: BaseStorage, study_id: int, known: Sequence[FrozenTrial], unfinished: Collection[int]
) -> list[FrozenTrial]:
    """Return the trials of a study that are new or may have changed, by number.

    Args:
        storage: The storage, as :func:`~dropopt.study.store.opening.open_storage` returns it.
        study_id: The storage's id of the study.
        known: The trials that were read before, by number, without gaps.
        unfinished: The numbers of those that were not finished.

    Raises:
        KeyError: There is no such study.
    """
    numbers = sorted(unfinished)
    if (tables := database_of(storage)) is not None:
        last = max((trial._trial_id for trial in known[-1:]), default=0)
        return rdb_reading.read(tables, study_id, [known[number]._trial_id for number in numbers], last)
    if isinstance(storage, JournalStorage):
        return _of_journal(storage, study_id, numbers, len(known))
    found = storage.get_all_trials(study_id, deepcopy=False)
    return [found[number] for number in numbers] + found[len(known) :]


def _of_journal(storage: JournalStorage, study_id: int, numbers: Sequence[int], count: int) -> list[FrozenTrial]:
    """The trials with these ``numbers``, and those after the first ``count``, once the journal has been read."""
    with storage._thread_lock:
        storage._sync_with_backend()
        replayed = storage._replay_result
        if study_id not in replayed._studies:
            raise KeyError(f"there is no study with the id {study_id}")
        ids = replayed._study_id_to_trial_ids[study_id]
        return [replayed._trials[trial_id] for trial_id in [*(ids[number] for number in numbers), *ids[count:]]]
