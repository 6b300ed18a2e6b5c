"""How the trials of a study end: the attributes and the state, written together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from dropopt.facts import Facts
from dropopt.study.store import retries
from dropopt.study.store.cached_trials import ANY_AGE
from dropopt.study.store.history import History
from dropopt.study.store.keys import EPOCHS, FACTS, HISTORY, INTERRUPTED, MESSAGE, PARAMETERS, REASON, RETRY
from dropopt.study.store.trial_summary import LEADERS, TrialSummary

if TYPE_CHECKING:
    from dropopt.study.store.mirror import Mirror

#: Characters of an error message that are stored: dashboards show it in a cell of a table.
MESSAGE_CHARACTERS = 500


class Endings:
    """Writes how trials end.

    Args:
        study: The study.
        storage: Its storage.
        summary: A summary of its trials.
        on_end: Called with the storage's id of a trial before it ends.
    """

    def __init__(self, study: Study, storage: Mirror, summary: TrialSummary, on_end: Callable[[int], None]) -> None:
        self._study = study
        self._storage = storage
        self._summary = summary
        self._on_end = on_end

    def end(
        self,
        trial: Trial | FrozenTrial,
        state: TrialState,
        facts: Mapping[str, Any],
        value: float | None = None,
        history: History | None = None,
    ) -> bool:
        """Write the attributes and the state of a trial.

        Args:
            trial: A running trial of this worker, or, as a FrozenTrial, of another one.
            state: The state.
            facts: The attributes, by key.
            value: The value; None for a trial without a result.
            history: The epochs, which are stored if the trial is among the best so far; see
                :data:`~dropopt.study.store.trial_summary.LEADERS`.

        Returns:
            Whether this call has ended the trial. Another process may have ended it already; the earlier result is
            kept.
        """
        self._on_end(trial._trial_id)
        if history is not None and not (history.epochs and value is not None and self._is_among_best(value)):
            history = None
        try:
            with self._storage.together(trial._trial_id):
                for key, fact in {**facts, **self._cost(trial)}.items():
                    self._storage.set_trial_user_attr(trial._trial_id, key, fact)
                if history is not None:
                    self._storage.set_trial_system_attr(trial._trial_id, HISTORY, history.plain())
                if isinstance(trial, FrozenTrial):  # of another worker; Optuna has no public way
                    self._storage.set_trial_state_values(trial._trial_id, state)
                else:
                    self._study.tell(trial, value, state)
        except UpdateFinishedTrialError:
            return self._is_stored(trial, state, facts, value)
        except ValueError:  # Optuna's error if the trial was ended a moment ago
            if not self._storage.get_trial(trial._trial_id).state.is_finished():
                raise
            return self._is_stored(trial, state, facts, value)
        return True

    def _is_stored(
        self, trial: Trial | FrozenTrial, state: TrialState, facts: Mapping[str, Any], value: float | None
    ) -> bool:
        """Whether a trial of this worker ended as given: a server may restart between storing and answering."""
        if not isinstance(trial, Trial):  # another worker's trial, which that worker may have ended in the same way
            return False
        stored = self._storage.get_trial(trial._trial_id)
        alike = stored.state == state and facts.items() <= stored.user_attrs.items()
        return alike and (value is None or stored.value == value)

    def without_result(self, trial: FrozenTrial, reason: str, message: str, *, again: bool = True) -> bool:
        """End a trial and enqueue it again if it may run again. Returns whether this call has ended it."""
        again = again and retries.may_run_again(trial, reason)
        facts = {REASON: reason, MESSAGE: message[:MESSAGE_CHARACTERS]} | ({RETRY: True} if again else {})
        ended = self.end(trial, TrialState.FAIL, facts)
        if ended and again and (reason != INTERRUPTED or "fixed_params" in trial.system_attrs):
            retries.enqueue_again(self._study, self._storage.get_trial(trial._trial_id))
        return ended

    def _is_among_best(self, value: float) -> bool:
        with self._storage.aged(ANY_AGE):  # the ledger reads them again often enough
            self._summary.update(self._study.get_trials(deepcopy=False))
        best = self._summary.leaders
        return len(best) < LEADERS or value <= (best[-1].value or 0.0)

    def _cost(self, trial: Trial | FrozenTrial) -> dict[str, int]:
        """The number of epochs that a trial has trained, and of parameters that its network has, if it trained."""
        if not (epochs := len(self._storage.get_trial(trial._trial_id).intermediate_values)):
            return {}
        return {EPOCHS: epochs} | ({} if self._parameters is None else {PARAMETERS: self._parameters})

    @cached_property
    def _parameters(self) -> int | None:
        facts = Facts.read(self._study.user_attrs.get(FACTS))
        return None if facts is None else facts.parameters
