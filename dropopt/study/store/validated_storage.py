"""A storage that reads another one without what other programs have damaged, as a worker reads it."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, TypeVar

from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from dropopt.study.store.validation import readable, valid_study_attributes, valid_trial, without_conflicts

#: The methods that ask for something that may not exist.
_MAY_MISS = ("get_study_id_from_name", "get_trial_id_from_study_id_trial_number")

_R = TypeVar("_R")


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._call(lambda storage: getattr(storage, name)(*args, **kwargs), may_miss=name in _MAY_MISS)

    return method


#: A storage that forwards all methods that have no general implementation in Optuna.
_Forwarding: Any = type(
    "_Forwarding",
    (BaseStorage,),
    {name: _forwarded(name) for name in (*BaseStorage.__abstractmethods__, *_MAY_MISS, "remove_session")},
)


class ValidatedStorage(_Forwarding):  # type: ignore[misc]  # its base class is made at run time
    """Reads and writes a storage, and leaves out attributes of a wrong type and parameters of another kind.

    Args:
        inner: The storage.
    """

    def __init__(self, inner: BaseStorage) -> None:
        self.inner = inner

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return valid_trial(self._call(lambda storage: storage.get_trial(trial_id)))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study, by number."""
        with readable("a trial"):
            found = self._call(lambda storage: storage.get_all_trials(study_id, deepcopy=deepcopy))
            valid = list(without_conflicts(map(valid_trial, found)))
        return valid if states is None else [trial for trial in valid if trial.state in states]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the user attributes of a study."""
        with readable("the attributes of the study"):
            return valid_study_attributes(self._call(lambda storage: storage.get_study_user_attrs(study_id)))

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies."""
        with readable("a study"):
            return self._call(lambda storage: storage.get_all_studies())

    def _call(self, function: Callable[[BaseStorage], _R], *, may_miss: bool = False) -> _R:
        """Return the result of ``function``; ``may_miss`` is whether what it asks for may not exist."""
        return function(self.inner)
