"""The reasons for which trials fail, and the number of failures in a row that ends a study."""

from __future__ import annotations

from dropopt.config import ConfigError
from dropopt.study.run.errors import StudyError
from dropopt.study.run.messages import Failed

#: The reason that is stored with a trial whose process has died too often.
PROCESS_DIED = "ProcessDied"

#: A session without a successful trial stops after this many failures in a row that have the same cause.
FIRST_FAILURES = 5
#: A session that has had a successful trial stops after this many.
LATER_FAILURES = 25
#: A session stops when this many trainers in a row have died before they were ready: in a session in which none has
#: ever been ready, and in one in which the cause must be outside, such as a lack of memory.
FIRST_STARTS, LATER_STARTS = 3, 12


class FailureCounter:
    """Counts failures in a row, and ends a study when there are too many."""

    def __init__(self) -> None:
        self._cause = ""
        self._failures = 0
        self._any_success = False
        self._failed_starts = 0
        self._any_start = False

    def trial_succeeded(self) -> None:
        """Record that a trial has completed or was pruned."""
        self._any_success = True
        self._failures = 0

    def trial_failed(self, cause: str, message: str) -> None:
        """Record that a trial has failed; raises :class:`StudyError` if too many in a row had the same ``cause``."""
        self._failures = self._failures + 1 if cause == self._cause else 1
        self._cause = cause
        limit = LATER_FAILURES if self._any_success else FIRST_FAILURES
        if self._failures >= limit:
            raise StudyError(
                f"the study stops because {limit} trials in a row failed with the same error: {cause}: {message}"
            )

    def trainer_started(self) -> None:
        """Record that a trainer is ready."""
        self._failed_starts = 0
        self._any_start = True

    def trainer_died_early(self, reason: str) -> None:
        """Record that a trainer died before it was ready; raises :class:`StudyError` after too many in a row."""
        self._failed_starts += 1
        if self._failed_starts >= (LATER_STARTS if self._any_start else FIRST_STARTS):
            raise StudyError(f"child processes die before they can train: {reason}")


def error_of(failed: Failed, what: str) -> Exception:
    """Return the error that ends a study whose data or network cannot be used; ``what`` says what cannot be done."""
    if failed.error == "ConfigError":
        return ConfigError(failed.message)
    return StudyError(f"{what}: {failed.error}: {failed.message} ({failed.where})")
