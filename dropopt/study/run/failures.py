"""Why trials fail, and when failures end a study: too many trials, or trainers, that fail one after the other."""

from __future__ import annotations

from dropopt.study.run.errors import StudyError

# Reasons that are stored with a trial, besides the names of errors.
OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
PROCESS_DIED = "ProcessDied"

#: A study without a successful trial stops after this many failures in a row that have the same cause.
FIRST_FAILURES = 5
#: A study that has had a successful trial stops after this many.
LATER_FAILURES = 25
#: Trainers in a row that may die before they are ready.
FAILED_STARTS = 3


class FailureCounter:
    """Counts failures in a row, and ends a study in which nothing works: the same error would only repeat."""

    def __init__(self) -> None:
        self._cause = ""
        self._failures = 0
        self._any_success = False
        self._failed_starts = 0

    def trial_succeeded(self) -> None:
        """A trial has completed or was pruned."""
        self._any_success = True
        self._failures = 0

    def trial_failed(self, cause: str, message: str) -> None:
        """A trial has failed; raises :class:`StudyError` if too many in a row had the same ``cause``."""
        self._failures = self._failures + 1 if cause == self._cause else 1
        self._cause = cause
        limit = LATER_FAILURES if self._any_success else FIRST_FAILURES
        if self._failures >= limit:
            raise StudyError(
                f"the study stops because {limit} trials in a row failed with the same error: {cause}: {message}"
            )

    def trainer_started(self) -> None:
        """A trainer is ready."""
        self._failed_starts = 0

    def trainer_died_early(self, reason: str) -> None:
        """A trainer died before it was ready; raises :class:`StudyError` after too many in a row."""
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            raise StudyError(f"child processes die before they can train: {reason}")
