"""A storage that remembers what it has read, and writes what belongs together at once.

A worker reads all trials several times for each new trial, and once for each report. Optuna loads the unfinished trials
again each time. The mirror keeps them, and loads them again if the storage may have changed: a SQLite file says so, and
the trials of a shared storage are current up to an age that the reader chooses.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropopt.study.store import writing
from dropopt.study.store.batch import Batch
from dropopt.study.store.cached_trials import CachedTrials
from dropopt.study.store.errors import StorageError
from dropopt.study.store.patient import Guard
from dropopt.study.store.reading import changed
from dropopt.study.store.validated_storage import ValidatedStorage
from dropopt.study.store.validation import conflicts, valid_trial, without_conflicts

_R = TypeVar("_R")


class Mirror(ValidatedStorage):
    """Reads and writes a storage for one worker; see the top of this module.

    Args:
        inner: The storage.
        guard: Calls functions with ``inner``, and repeats them during an outage. Default: calls them once.
    """

    def __init__(self, inner: BaseStorage, guard: Guard | None = None) -> None:
        super().__init__(inner)
        self._guard = guard
        self._known: dict[int, CachedTrials] = {}
        self._studies: dict[int, int] = {}  # the study of each running trial of this process, by the ids of both
        self._own: dict[int, FrozenTrial] = {}  # the running trials of this process, by id
        self._open: dict[int, Batch] = {}
        self._max_age = 0.0
        #: User attributes of each trial that this process starts.
        self.stamp: Callable[[], dict[str, Any]] = dict

    @property
    def outages(self) -> int:
        """The number of outages of the storage that have ended."""
        return 0 if self._guard is None else self._guard.patience.outages

    # -- how current the trials are, and what is written together

    @contextmanager
    def aged(self, seconds: float) -> Iterator[None]:
        """Inside the block, trials that were loaded at most so many ``seconds`` ago are not loaded again."""
        before, self._max_age = self._max_age, seconds
        try:
            yield
        finally:
            self._max_age = before

    @contextmanager
    def together(self, trial_id: int) -> Iterator[None]:
        """Store what is written about a trial inside the block at the end of the block.

        Raises:
            UpdateFinishedTrialError: The trial has ended.
        """
        if trial_id in self._open:
            yield
            return
        self._open[trial_id] = Batch()
        try:
            yield
        finally:
            self._store(trial_id, self._open.pop(trial_id))

    # -- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial; one that starts to run has the attributes of :attr:`stamp` from the beginning."""
        if template_trial is None:
            template_trial = create_trial(state=TrialState.RUNNING, user_attrs=self.stamp())
        return self.create_new_trials(study_id, [template_trial])[0]

    def create_new_trials(self, study_id: int, templates: Sequence[FrozenTrial]) -> list[int]:
        """Create several trials at once, and return their ids."""
        made = self._call(lambda storage: writing.create(storage, study_id, templates))
        for trial in made:
            if trial.state == TrialState.RUNNING:
                self._begin(study_id, trial)
            elif study_id in self._known:
                self._known[study_id].put(trial)
        return [trial._trial_id for trial in made]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Store a parameter.

        Raises:
            StorageError: An earlier trial has it with an incompatible distribution. The trial is of another program.
        """
        known = self._known.get(self._studies.get(trial_id, -1))
        first = None if known is None else known.distribution(param_name)
        if first is not None and (reason := conflicts(first, distribution)):
            raise StorageError(
                f"another program has added a trial to the study in which the parameter {param_name!r} is of another "
                f"kind ({reason.rstrip('.')}), and Optuna accepts one kind in a study; give another --study-name"
            )
        if trial_id in self._own:
            trial = self._own[trial_id]
            # These are new dictionaries, because others may hold the trial.
            trial.params = trial.params | {param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = trial.distributions | {param_name: distribution}
        self._write(trial_id, Batch(params={param_name: (param_value_internal, distribution)}))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a user attribute."""
        if trial_id in self._own:
            self._own[trial_id].user_attrs[key] = json.loads(json.dumps(value))
        self._write(trial_id, Batch(user_attrs={key: value}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a system attribute."""
        if trial_id in self._own:
            self._own[trial_id].system_attrs[key] = json.loads(json.dumps(value))
        self._write(trial_id, Batch(system_attrs={key: value}))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Store the value of a step."""
        if trial_id in self._own:
            self._own[trial_id].intermediate_values[step] = intermediate_value
        self._write(trial_id, Batch(reports={step: intermediate_value}))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Start or end a trial; returns False if another process has started it."""
        if state == TrialState.RUNNING:
            started = self._call(lambda storage: storage.set_trial_state_values(trial_id, state, values))
            if started:
                self._begin(*self._find(trial_id))
            return started
        self._write(trial_id, Batch(state=state, values=None if values is None else list(values)))
        return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a running trial of this process, or load another trial."""
        own = self._own.get(trial_id)
        return super().get_trial(trial_id) if own is None else _copied(own)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study, by number; without ``deepcopy``, in a list that must not be changed."""
        known = self._current(study_id)
        wanted = None if states is None else frozenset(state for state in TrialState if state in states)
        found = known.trials if wanted is None else known.in_states(wanted)
        return copy.deepcopy(found) if deepcopy else found

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        self._known.pop(study_id, None)
        super().delete_study(study_id)

    # -- what is known

    def _call(self, function: Callable[[BaseStorage], _R], *, may_miss: bool = False) -> _R:
        guard = self._guard
        return super()._call(function) if guard is None else guard.run(function, may_miss=may_miss)

    def _current(self, study_id: int) -> CachedTrials:
        """The trials of a study; those that may have changed are loaded again."""
        known, now = self._known.setdefault(study_id, CachedTrials()), time.monotonic()
        if not known.expired and now - known.loaded <= self._max_age:
            return known
        version = self._call(writing.version)
        if version is None or version != known.version:
            # A finished trial never changes. Samplers recognise the trials of their last model by identity.
            found = self._call(lambda storage: changed(storage, study_id, known.trials, known.unfinished))
            known.expired = False
            trials = without_conflicts(map(valid_trial, found), known.distribution)
            known.put(*(t if t.state.is_finished() else self._own.get(t._trial_id, t) for t in trials))
            if known.expired:
                raise StorageError(
                    f"trial {len(known.trials)} of the study was deleted from the storage, so that the study cannot go "
                    "on; restore a copy of the storage, or give another --study-name"
                )
        known.version, known.loaded = version, now
        return known

    def _find(self, trial_id: int) -> tuple[int, FrozenTrial]:
        """The study and a copy of a trial that this process has just started, and that was waiting."""
        for study_id, known in self._known.items():
            for trial in known.trials:
                if trial._trial_id == trial_id:
                    started = _copied(trial)
                    started.state, started.datetime_start = TrialState.RUNNING, datetime.now()
                    return study_id, started
        raise KeyError(f"no study that was read has a trial with the id {trial_id}")

    def _begin(self, study_id: int, trial: FrozenTrial) -> None:
        own = _copied(trial)  # the storage may keep the other one
        self._own[trial._trial_id], self._studies[trial._trial_id] = own, study_id
        if study_id in self._known:
            self._known[study_id].put(own)

    def _write(self, trial_id: int, batch: Batch) -> None:
        """Store a batch, or add it to the one that is open."""
        if trial_id not in self._open:
            self._store(trial_id, batch)
            return
        open_batch = self._open[trial_id]
        for name in ("params", "user_attrs", "system_attrs", "reports"):
            getattr(open_batch, name).update(getattr(batch, name))
        if batch.state is not None:
            open_batch.state, open_batch.values = batch.state, batch.values

    def _store(self, trial_id: int, batch: Batch) -> None:
        if not batch:
            return
        try:
            self._call(lambda storage: writing.write(storage, trial_id, batch))
        except UpdateFinishedTrialError:
            self._forget(trial_id)
            raise
        if batch.state is None:
            return
        if trial_id not in self._own:
            self._forget(trial_id)
            return
        ended = _copied(self._own.pop(trial_id))
        ended.state, ended.values, ended.datetime_complete = batch.state, batch.values, datetime.now()
        if (known := self._known.get(self._studies.pop(trial_id))) is not None:
            known.put(ended)

    def _forget(self, trial_id: int) -> None:
        """Load the trials again before they are next read: this one has changed elsewhere."""
        self._own.pop(trial_id, None)
        self._studies.pop(trial_id, None)
        for known in self._known.values():
            known.expire()


def mirrored(study: Study) -> tuple[Study, Mirror]:
    """Return ``study`` with a storage that is a mirror, and that mirror."""
    if isinstance(study._storage, Mirror):
        return study, study._storage
    mirror = Mirror(study._storage)
    name = study.study_name
    return load_study(study_name=name, storage=mirror, sampler=study.sampler, pruner=study.pruner), mirror


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy that can be changed without changing ``trial``."""
    copied = copy.copy(trial)
    copied.params, copied.distributions = dict(trial.params), dict(trial.distributions)
    copied.user_attrs, copied.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    copied.intermediate_values = dict(trial.intermediate_values)
    return copied
